//! Greets whom its first argument names, then prints the file that its second argument names.

use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let [_, name, file] = &args[..] else {
        eprintln!("usage: hello NAME FILE");
        return ExitCode::FAILURE;
    };
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello".into());
    println!("{greeting} {name}, from Rust");
    match fs::read_to_string(file) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("read {file}: {error}");
            ExitCode::FAILURE
        }
    }
}
