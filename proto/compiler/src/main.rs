//! The part of `protoc` that prost's build scripts call: parse the `.proto` files and write their
//! descriptor set. Parsing is protox's; this file only reads the command line.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("protoc (ringway): {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<(), String> {
    let mut includes: Vec<PathBuf> = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut out: Option<PathBuf> = None;
    let (mut with_imports, mut with_source) = (false, false);
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--version" => {
                println!("libprotoc 27.0 (ringway stand-in)");
                return Ok(());
            }
            "--include_imports" => with_imports = true,
            "--include_source_info" => with_source = true,
            "--experimental_allow_proto3_optional" => {}
            "-o" => out = args.next().map(PathBuf::from),
            "-I" => includes.extend(args.next().map(PathBuf::from)),
            _ if arg.starts_with("-I") => includes.push(PathBuf::from(&arg[2..])),
            _ if arg.starts_with("--descriptor_set_out=") => {
                out = Some(PathBuf::from(&arg["--descriptor_set_out=".len()..]));
            }
            _ if arg.starts_with('-') => return Err(format!("unknown option {arg}")),
            _ => files.push(PathBuf::from(arg)),
        }
    }
    let out = out.ok_or("no output file (-o) given")?;
    let mut compiler = protox::Compiler::new(includes).map_err(|e| e.to_string())?;
    compiler.include_imports(with_imports).include_source_info(with_source);
    compiler.open_files(files).map_err(|e| e.to_string())?;
    std::fs::write(&out, compiler.encode_file_descriptor_set()).map_err(|e| format!("{}: {e}", out.display()))
}
