//! `outrigger status`: asks the admin API of a running sidecar.

use std::{process::ExitCode, time::Duration};

use serde_json::Value;

use super::{Output, admin::AdminArgs, exit};

/// Tell how a running sidecar is
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 told, 1 the token cannot be read, 2 wrong usage, 4 the sidecar cannot be reached, \
                  6 it denies access, 9 (with --fail) not ready."
)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Exit with 9 unless the sidecar is ready
    #[arg(long)]
    fail: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Prints the status.
#[expect(clippy::print_stdout, reason = "printing is what the verb is for")]
pub(super) fn status(args: &StatusArgs) -> ExitCode {
    let status = match args.admin.get("/v1/status") {
        Ok(status) => status,
        Err(error) => {
            if !args.quiet {
                error.tell();
            }
            return error.code();
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

/// `3 healthy, 1 open`: the healthy ones, and what else there is.
fn endpoints(counts: &Value) -> String {
    let others = ["unhealthy", "ejected", "open", "half_open"];
    let mut text = format!("{} healthy", counts["healthy"]);
    for state in others.into_iter().filter(|state| counts[state].as_u64().is_some_and(|count| count > 0)) {
        text.push_str(&format!(", {} {}", counts[state], state.replace('_', "-")));
    }
    text
}

/// `spiffe://mesh/service/web (expires in 17h)`, and what is wrong.
fn identity(identity: &Value) -> String {
    let Some(id) = identity["spiffe_id"].as_str() else {
        return "none (mTLS is disabled)".to_owned();
    };
    let left = match identity["remaining_seconds"].as_u64().unwrap_or_default() {
        0 => "EXPIRED".to_owned(),
        seconds => format!("expires in {}", shortly(seconds)),
    };
    let problem = &identity["problem"];
    match (problem["text"].as_str(), problem["at"].as_str()) {
        (Some(text), Some(at)) => format!("{id} ({left})\nPROBLEM      since {at}: {text}"),
        _ => format!("{id} ({left})"),
    }
}

/// `5 alive, 1 suspect`: the living ones, and what else there is; and if the sidecar takes itself for cut off.
fn members(counts: &Value) -> String {
    let others = ["suspect", "dead"];
    let mut text = format!("{} alive", counts["alive"]);
    for state in others.into_iter().filter(|state| counts[state].as_u64().is_some_and(|count| count > 0)) {
        text.push_str(&format!(", {} {state}", counts[state]));
    }
    if counts["isolated"] == true {
        text.push_str("\nPROBLEM      most members were lost at once: the sidecar may be cut off itself");
    }
    text
}

/// A time in its largest unit, rounded down: what people want to know of an expiry.
pub(super) fn shortly(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let unit = match seconds {
        0..MINUTE => 1,
        MINUTE..HOUR => MINUTE,
        HOUR..DAY => HOUR,
        _ => DAY,
    };
    humantime::format_duration(Duration::from_secs(seconds / unit * unit)).to_string()
}

fn text(status: &Value) -> String {
    if status["state"] == "waiting" {
        return waiting(status);
    }
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
    let mut lines = vec![
        ("state", word(&status["state"])),
        ("service", word(&status["service"])),
        ("identity", identity(&status["identity"])),
        ("version", word(&status["version"])),
        ("started", word(&status["started_at"])),
        ("inbound", word(&status["listeners"]["inbound"])),
        ("outbound", word(&status["listeners"]["outbound"])),
        ("routes", status["routes"].to_string()),
        ("endpoints", endpoints(&status["endpoints"])),
    ];
    if status["members"].is_object() {
        lines.push(("members", members(&status["members"])));
    }
    lines.extend([
        ("config", format!("{} (generation {})", word(&config["hash"]), config["generation"])),
        ("last reload", reload),
    ]);
    table(&lines)
}

/// A sidecar that has no certificate yet has nothing else to tell of.
fn waiting(status: &Value) -> String {
    table(&[
        ("state", word(&status["state"])),
        ("reason", word(&status["reason"])),
        ("service", word(&status["service"])),
        ("version", word(&status["version"])),
        ("started", word(&status["started_at"])),
        ("config", word(&status["config"]["hash"])),
    ])
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn table(lines: &[(&str, String)]) -> String {
    let lines: Vec<String> = lines.iter().map(|(name, value)| format!("{name:<12} {value}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_identity_is_told_with_what_is_left_of_it_and_what_is_wrong() {
        let mut told = json!({ "spiffe_id": "spiffe://m/service/web", "remaining_seconds": 62_345 });
        assert_eq!(identity(&told), "spiffe://m/service/web (expires in 17h)");
        told["remaining_seconds"] = 0.into();
        told["problem"] = json!({ "at": "2026-01-01T00:00:00Z", "text": "half a file" });
        let expected =
            "spiffe://m/service/web (EXPIRED)\nPROBLEM      since 2026-01-01T00:00:00Z: half a file";
        assert_eq!(identity(&told), expected);
        assert_eq!(identity(&Value::Null), "none (mTLS is disabled)");
    }

    #[test]
    fn a_sidecar_that_waits_says_what_for_and_nothing_that_it_does_not_know() {
        let told = text(&json!({ "state": "waiting", "reason": "no token", "service": "web" }));
        assert!(
            told.starts_with("state        waiting\nreason       no token\nservice      web\n"),
            "{told}"
        );
        assert!(!told.contains("identity") && !told.contains("null"), "{told}");
    }

    #[test]
    fn members_are_counted_where_there_is_a_mesh() {
        let mut counts = json!({ "alive": 5, "suspect": 0, "dead": 2, "left": 1, "isolated": false });
        assert_eq!(members(&counts), "5 alive, 2 dead");
        counts["isolated"] = true.into();
        assert!(members(&counts).starts_with("5 alive, 2 dead\nPROBLEM      most members"));
        let with = text(&json!({ "members": counts }));
        let lines: Vec<&str> = with.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(lines[8..12], ["endpoints", "members", "PROBLEM", "config"], "{with}");
        assert!(!text(&json!({ "members": null })).contains("members"));
    }

    #[test]
    fn what_is_left_is_told_in_one_unit() {
        for (seconds, told) in [(59, "59s"), (61, "1m"), (7_199, "1h"), (86_400, "1day"), (200_000, "2days")]
        {
            assert_eq!(shortly(seconds), told);
        }
    }
}
