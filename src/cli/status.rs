//! `outrigger status`: asks the admin API of a running sidecar.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use super::exit;

/// Largest answer that is read.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// Tell how a running sidecar is
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 told, 2 wrong usage, 4 the sidecar cannot be reached, 9 (with --fail) not ready."
)]
pub(super) struct StatusArgs {
    /// Address of the admin API
    #[arg(short, long, env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Exit with 9 unless the sidecar is ready
    #[arg(long)]
    fail: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Longest wait for the answer
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

/// Prints the status.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what the verb is for")]
pub(super) fn status(args: &StatusArgs) -> ExitCode {
    let status = match ask(args.admin, "/v1/status", args.timeout) {
        Ok(status) => status,
        Err(error) => {
            if !args.quiet {
                eprintln!("error: cannot reach the sidecar at http://{}: {error}", args.admin);
                eprintln!("hint: is it running? Another address is given with --admin or OUTRIGGER_ADMIN");
            }
            return ExitCode::from(exit::UNREACHABLE);
        }
    };
    if !args.quiet {
        match args.output {
            Output::Json => println!("{status:#}"),
            Output::Text => println!("{}", text(&status)),
        }
    }
    if args.fail && status["state"] != "ready" {
        return ExitCode::from(exit::UNHEALTHY);
    }
    ExitCode::SUCCESS
}

/// One GET over HTTP/1.0: the answer is everything until the close.
fn ask(admin: SocketAddr, path: &str, limit: Duration) -> Result<Value, Box<dyn std::error::Error>> {
    let mut stream = TcpStream::connect_timeout(&admin, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("no answer in HTTP")?;
    let head = String::from_utf8_lossy(&answer[..split]);
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) != Some("200") {
        return Err(format!("it answered `{line}`").into());
    }
    Ok(serde_json::from_slice(&answer[split + 4..])?)
}

/// `3 healthy, 1 open`: the healthy ones, and what else there is.
fn endpoints(counts: &Value) -> String {
    let others = ["unhealthy", "ejected", "open", "half_open"];
    let mut text = format!("{} healthy", counts["healthy"]);
    for state in others.into_iter().filter(|state| counts[state].as_u64().is_some_and(|count| count > 0)) {
        text.push_str(&format!(", {} {}", counts[state], state.replace('_', "-")));
    }
    text
}

fn text(status: &Value) -> String {
    let config = &status["config"];
    let reload = match &config["last_reload"] {
        Value::Null => "none since the start".to_owned(),
        last if last["successful"] == true => format!("{} at {}", last["trigger"], last["at"]),
        last => format!(
            "REJECTED at {} ({}):\n{}",
            last["at"],
            last["trigger"],
            last["error"].as_str().unwrap_or("")
        ),
    };
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let lines = [
        ("state", word(&status["state"])),
        ("service", word(&status["service"])),
        ("version", word(&status["version"])),
        ("started", word(&status["started_at"])),
        ("inbound", word(&status["listeners"]["inbound"])),
        ("outbound", word(&status["listeners"]["outbound"])),
        ("routes", status["routes"].to_string()),
        ("endpoints", endpoints(&status["endpoints"])),
        ("config", format!("{} (generation {})", word(&config["hash"]), config["generation"])),
        ("last reload", reload),
    ];
    let lines: Vec<String> = lines.iter().map(|(name, value)| format!("{name:<12} {value}")).collect();
    lines.join("\n")
}
