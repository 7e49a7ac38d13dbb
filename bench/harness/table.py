"""Rows as a table a person reads, and as JSON."""

import json


def show(rows):
    """Prints rows with the columns that any of them has, in the order of their first coming."""
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in text)) for i, column in enumerate(columns)]
    print()
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths)))
    for line in text:
        print("  ".join(value.ljust(width) for value, width in zip(line, widths)), flush=True)


def cell(value):
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def save(path, rows):
    with open(path, "w") as file:
        json.dump({"rows": rows}, file, indent=1)
        file.write("\n")
