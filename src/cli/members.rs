//! `outrigger members`: who is in the mesh, as the sidecar that is asked sees it.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use super::{
    admin::{AdminArgs, AskError},
    columns::{columns, word, words},
    status::shortly,
};
use crate::membership::MemberState;

/// Tell who is in the mesh
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 told, 1 the token cannot be read, 2 wrong usage, 4 the sidecar cannot be reached, 5 it is in \
                  no mesh, 6 it denies access.\n\n\
                  Examples:\n  outrigger members\n  outrigger members --status suspect,dead -o wide\n  \
                  outrigger members --watch"
)]
pub(super) struct MembersArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only those that are thought of so: alive, suspect, dead, left
    #[arg(long, value_name = "STATE,...", value_delimiter = ',', value_parser = state)]
    status: Vec<MemberState>,
    /// `text`, `wide` or `json`
    #[arg(short, long, value_enum, default_value_t = Shape::Text)]
    output: Shape,
    /// Tell it again each second, until interrupted; with `-o json` one line each time
    #[arg(long)]
    watch: bool,
}

/// How members are told of.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// For people
    Text,
    /// For people who want to know more
    Wide,
    /// For tools: one document
    Json,
}

fn state(text: &str) -> Result<MemberState, String> {
    let found = MemberState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| {
        let states = MemberState::ALL.map(MemberState::as_str);
        format!("expected one of {}", states.join(", "))
    })
}

/// Prints the members, once or again and again.
#[expect(clippy::print_stdout, reason = "printing is what the verb is for")]
pub(super) fn members(args: &MembersArgs) -> ExitCode {
    if args.watch {
        return watch(args);
    }
    match args.list() {
        Ok(list) if args.output == Shape::Json => println!("{list:#}"),
        Ok(list) => print!("{}", text(&list, args.output)),
        Err(error) => {
            error.tell();
            return error.code();
        }
    }
    ExitCode::SUCCESS
}

/// Tells it until interrupted, or until nobody reads any more.
fn watch(args: &MembersArgs) -> ExitCode {
    let mut stdout = std::io::stdout();
    let is_screen = stdout.is_terminal() && args.output != Shape::Json;
    let mut was_told = false;
    loop {
        let told = match args.list() {
            Ok(list) if args.output == Shape::Json => format!("{list}\n"),
            Ok(list) => text(&list, args.output),
            // A sidecar that answered once and does not now is starting again; one that never did is a mistake.
            Err(error) if was_told && is_screen => format!("error: {error}\n"),
            Err(error) => {
                error.tell();
                if !was_told {
                    return error.code();
                }
                String::new()
            }
        };
        was_told = true;
        let begin = if is_screen { CLEAR } else { "" };
        if write!(stdout, "{begin}{told}").and_then(|()| stdout.flush()).is_err() {
            return ExitCode::SUCCESS;
        }
        std::thread::sleep(PAUSE);
    }
}

impl MembersArgs {
    /// The document, with those that are wanted.
    fn list(&self) -> Result<Value, AskError> {
        let mut list = self.admin.get("/v1/members")?;
        if let Some(items) = list["items"].as_array_mut() {
            items.retain(|item| is_wanted(item, &self.status));
        }
        Ok(list)
    }
}

fn is_wanted(item: &Value, states: &[MemberState]) -> bool {
    states.is_empty() || states.iter().any(|state| item["state"] == state.as_str())
}

fn text(list: &Value, shape: Shape) -> String {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = match shape {
        Shape::Text | Shape::Json => columns(HEADING, &items.iter().map(row).collect::<Vec<_>>()),
        Shape::Wide => columns(WIDE_HEADING, &items.iter().map(wide_row).collect::<Vec<_>>()),
    };
    if list["isolated"] == true {
        text.push_str("WARNING  most members were lost at once: the sidecar may be cut off itself\n");
    }
    match list["health_score"].as_u64().unwrap_or_default() {
        0 => {}
        score => text.push_str(&format!(
            "WARNING  the sidecar distrusts itself ({score} of 8): it is slow, or loses packets\n"
        )),
    }
    text
}

const HEADING: [&str; 7] = ["NODE", "SERVICE", "ADDRESS", "STATE", "SINCE", "ZONE", "VERSION"];

fn row(item: &Value) -> [String; 7] {
    // Who has not told its name yet is called by what it is known by.
    let node = if item["node"].is_string() { &item["node"] } else { &item["id"] };
    let since = item["since_seconds"].as_f64().map_or_else(|| "-".to_owned(), |age| shortly(age as u64));
    let [service, address, state, zone, version] =
        ["service", "address", "state", "zone", "version"].map(|key| word(&item[key]));
    [word(node), service, address, state, since, zone, version]
}

const WIDE_HEADING: [&str; 13] = [
    "NODE",
    "SERVICE",
    "ADDRESS",
    "STATE",
    "SINCE",
    "ZONE",
    "VERSION",
    "ENDPOINT",
    "INCARNATION",
    "RTT",
    "ROUTABLE",
    "ACCUSED-BY",
    "TAGS",
];

fn wide_row(item: &Value) -> [String; 13] {
    let [node, service, address, state, since, zone, version] = row(item);
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    let round_trip = item["round_trip_seconds"].as_f64();
    let round_trip = round_trip.map_or_else(|| "-".to_owned(), |took| format!("{:.1}ms", took * 1e3));
    let accusers = item["accusers"].as_array().into_iter().flatten().map(word);
    let tags = item["tags"].as_object().into_iter().flatten();
    let tags = tags.map(|(name, value)| super::admin::printable(&format!("{name}={}", word(value))));
    [
        node,
        service,
        address,
        state,
        since,
        zone,
        version,
        word(&item["endpoint"]),
        number(&item["incarnation"]),
        round_trip,
        word(&item["routable"]).replace('_', "-"),
        words(accusers),
        words(tags),
    ]
}

/// Puts the cursor to the upper left corner and wipes the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";
/// As often as something is likely to have changed.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> Value {
        json!({
            "kind": "MemberList",
            "items": [
                {
                    "id": "0000000000000001", "node": "api-1", "service": "api", "address": "10.0.0.1:7946",
                    "endpoint": "10.0.0.1:15006", "state": "alive", "since_seconds": 7_300.5, "incarnation": 0,
                    "routable": "yes", "accusers": [], "round_trip_seconds": null, "zone": "a",
                    "version": "0.1.0", "tags": { "version": "v2", "zone": "a" },
                },
                {
                    "id": "0000000000000002", "node": "web-10", "service": "web", "address": "[fd00::2]:7946",
                    "endpoint": null, "state": "suspect", "since_seconds": 0.4, "incarnation": 12,
                    "routable": "last_resort", "accusers": ["api-1", "0000000000000003"],
                    "round_trip_seconds": 0.00123, "zone": null, "version": "0.1.0", "tags": {},
                },
                {
                    "id": "0000000000000003", "node": null, "service": null, "address": "10.0.0.3:7946",
                    "endpoint": null, "state": "dead", "since_seconds": 61, "incarnation": 1, "routable": "no",
                    "accusers": [], "round_trip_seconds": null, "zone": null, "version": null, "tags": null,
                },
            ],
            "health_score": 0,
            "isolated": false,
        })
    }

    #[test]
    fn members_are_a_table() {
        let expected = "\
NODE              SERVICE  ADDRESS         STATE    SINCE  ZONE  VERSION
api-1             api      10.0.0.1:7946   alive    2h     a     0.1.0
web-10            web      [fd00::2]:7946  suspect  0s     -     0.1.0
0000000000000003  -        10.0.0.3:7946   dead     1m     -     -
";
        assert_eq!(text(&list(), Shape::Text), expected);
    }

    #[test]
    fn wide_tells_the_rest() {
        let told = text(&list(), Shape::Wide);
        let ends: Vec<_> =
            told.lines().map(|line| line.split("  VERSION").last().unwrap_or_default()).collect();
        assert_eq!(
            ends[0],
            "  ENDPOINT        INCARNATION  RTT    ROUTABLE     ACCUSED-BY              TAGS"
        );
        let end = |at: usize, from: &str| {
            let line: &str = ends[at];
            line[line.find(from).unwrap()..].to_owned()
        };
        assert_eq!(
            end(1, "10.0.0.1:15006"),
            "10.0.0.1:15006  0            -      yes          -                       version=v2,zone=a"
        );
        assert_eq!(
            end(2, "-               12"),
            "-               12           1.2ms  last-resort  api-1,0000000000000003  -"
        );
    }

    #[test]
    fn only_the_wanted_states_are_told() {
        let wanted = |states: &[MemberState]| {
            let list = list();
            let items = list["items"].as_array().unwrap();
            items.iter().filter(|item| is_wanted(item, states)).count()
        };
        assert_eq!(wanted(&[]), 3);
        assert_eq!(wanted(&[MemberState::Suspect, MemberState::Dead]), 2);
        assert_eq!(wanted(&[MemberState::Left]), 0);
        assert_eq!(state("suspect"), Ok(MemberState::Suspect));
        assert_eq!(state("ill"), Err("expected one of alive, suspect, dead, left".to_owned()));
    }

    #[test]
    fn a_sidecar_that_doubts_itself_is_told_of() {
        let mut list = json!({ "items": [], "isolated": true, "health_score": 3 });
        let told = text(&list, Shape::Text);
        assert!(told.contains("WARNING  most members") && told.contains("itself (3 of 8)"), "{told}");
        list["isolated"] = false.into();
        list["health_score"] = 0.into();
        assert_eq!(text(&list, Shape::Text).lines().count(), 1);
    }
}
