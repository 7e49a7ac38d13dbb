"""What each plugin adds to a request, alone on a route: CPU, allocations, instructions.

The list is bench/peers/plugins.json, one object a line: `name`, `plugins` (as a route has them), and where needed
`headers` of the request, `objects` (other writes to the Admin API), `sign` (a key and secret for hmac-auth's header)
and `goal`, the ratio to the plain route that we allow (GOAL where it is left out, null where there is none). With
--rounds 0 only what does not depend on the machine is counted: allocations and instructions.
"""

import base64
import email.utils
import hashlib
import hmac
import json
import os
import re

from . import allocations, instructions, machine, measure, redis, sink

GOAL = 1.05
CONNECTIONS = 64
PLAIN = "/each/plain"


def entries(house, options):
    """The list, with the ports of this run in it; only what --plugins names, if it is given."""
    with open(os.path.join(machine.BENCH, "peers", "plugins.json")) as file:
        text = file.read().replace("@BACKEND@", str(house.backend)).replace("@DIR@", house.directory)
    wanted = options.plugins.split(",") if options.plugins else None
    found = [entry for entry in json.loads(text) if not wanted or {entry["name"], *entry["plugins"]} & set(wanted)]
    text = json.dumps(found)
    if "@REDIS@" in text:
        text = text.replace('"@REDIS@"', str(redis.started(house)))
    if "@SINK@" in text:
        text = text.replace('"@SINK@"', str(sink.started()))
    return json.loads(text)


def path(entry):
    return "/each/" + re.sub(r"\W+", "-", entry["name"])


def headers(entry):
    """The request's headers; a signature is made anew, for it holds for five minutes only."""
    found = list(entry.get("headers", []))
    if "sign" in entry:
        key, date = entry["sign"]["key"], email.utils.formatdate(usegmt=True)
        signed = f"{key}\nGET {path(entry)}\ndate: {date}\n"
        code = hmac.new(entry["sign"]["secret"].encode(), signed.encode(), hashlib.sha256).digest()
        fields = {"keyId": key, "algorithm": "hmac-sha256", "headers": "@request-target date"}
        fields["signature"] = base64.b64encode(code).decode()
        value = ",".join(f'{name}="{value}"' for name, value in fields.items())
        found += [f"Date: {date}", f"Authorization: Signature {value}"]
    return found


def prepared(house, gateway, wanted):
    """Writes the routes; gives the entries that the gateway serves, and says why it does not serve the others."""
    house.route(gateway, "each-plain", PLAIN)
    gateway.wait_answers(PLAIN)
    served = []
    for entry in wanted:
        try:
            for name, value in entry.get("objects", {}).items():
                gateway.put(name, value)
            house.route(gateway, path(entry).strip("/").replace("/", "-"), path(entry), plugins=entry["plugins"])
            gateway.wait_answers(path(entry), dict(line.split(": ", 1) for line in headers(entry)), seconds=3)
            served.append(entry)
        except RuntimeError as refused:
            machine.say(f"  {entry['name']} is left out: {refused}")
    return served


def cpu(gateway, entry, options):
    """CPU of the entry's route beside the plain route's, in interleaved rounds; where its request has fields of its own, also
    beside the plain route's with the same request, which tells the plugin's share from that of a longer request."""
    fields = headers(entry)
    same = "same" if fields else "plain"
    targets = {"plain": (gateway, PLAIN), same: (gateway, PLAIN), "own": (gateway, path(entry))}
    sent = {same: fields, "own": fields}
    rows = measure.interleave(
        f"each_plugin {entry['name']}", targets, CONNECTIONS, 100, options, sent, base=("plain", same)
    )
    plain, own = rows[0], rows[-1]
    return {
        "cpu_us": own["cpu_us"],
        "added_us": round(plain["cpu_us"] * (own["ratio_plain"] - 1), 3),
        "ratio_plain": own["ratio_plain"],
        "ratio_same": own[f"ratio_{same}"],
        "goal": entry.get("goal", GOAL),
        "added_syscalls": None if own["syscalls"] is None else round(own["syscalls"] - plain["syscalls"], 3),
        "spread": own["spread"],
    }


def heap(house, gateway, wanted):
    """(allocations, bytes) of a request, by path; who allocates is printed where a plugin does."""
    found = {}
    with allocations.probes(gateway) as events:
        for name, one, more in [("", PLAIN, []), *((entry["name"], path(entry), headers(entry)) for entry in wanted)]:
            made = allocations.record(house, gateway, events, one, more)
            found[one] = (len(made) / allocations.REQUESTS, sum(size for size, _ in made) / allocations.REQUESTS)
            if found[one][0] > found[PLAIN][0] + 0.5:
                allocations.show_sites(gateway, name, made)
    return found


def counted(house, wanted):
    """Instructions of a request by the entry's name: more than a plain one, and more than the same request on a plain route."""
    gateway = instructions.started(house)
    served = prepared(house, gateway, wanted)
    plain, found = instructions.each_request(gateway, PLAIN), {}
    for entry in served:
        fields = headers(entry)
        own = instructions.each_request(gateway, path(entry), fields)
        same = instructions.each_request(gateway, PLAIN, fields) if fields else plain
        found[entry["name"]] = {"added_instructions": round(own - plain), "plugin_instructions": round(own - same)}
    house.stop(gateway)
    return found


def each_plugin(house, options):
    wanted = entries(house, options)
    rows = []
    for name in ["ringway"] + (["apisix"] if options.apisix else []):
        gateway = house.start(name)
        served = prepared(house, gateway, wanted)
        costs = heap(house, gateway, served) if name == "ringway" else {}
        steps = counted(house, served) if name == "ringway" else {}
        for entry in served:
            row = {"case": "each_plugin", "peer": name, "plugin": entry["name"]}
            if options.rounds:
                row.update(cpu(gateway, entry, options))
            if costs:
                row["added_allocations"], row["added_bytes"] = (
                    round(own - plain, 2) for own, plain in zip(costs[path(entry)], costs[PLAIN])
                )
                row.update(steps[entry["name"]])
            row["rounds"] = options.rounds
            rows.append(row)
        house.stop(gateway)
    return rows
