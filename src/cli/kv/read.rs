//! `kv get` and `kv ls`.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{Failure, Going, Held, Reading, at_level, pages, path, shown_key, tell_session};
use crate::{
    admin::API,
    cli::{Output, admin::AdminArgs, columns::columns},
};

#[derive(clap::Args, Debug)]
#[command(after_help = "A key that is not there is exit code 5, with nothing on standard output.\n\n\
                  Examples:\n  outrigger kv get limits/web\n  outrigger kv get icon --raw > icon.png\n  \
                  outrigger kv get limits/web -o json")]
pub(super) struct GetArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    going: Going,
    /// The bytes of the value and nothing else: no end of line, no check whether it is text
    #[arg(long, conflicts_with = "output")]
    raw: bool,
    /// `text`: the value and an end of line; `json`: the value, its revision and more
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Which
    key: String,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  outrigger kv ls\n  outrigger kv ls limits/ --keys-only")]
pub(super) struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    going: Going,
    /// One key a line, and nothing else
    #[arg(long, conflicts_with = "output")]
    keys_only: bool,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only keys that begin so
    #[arg(default_value = "")]
    prefix: String,
}

/// Prints a value.
pub(super) fn get(args: &GetArgs) -> Result<ExitCode, Failure> {
    let level = args.reading.level();
    let mut parameters = vec![("key", args.key.as_str())];
    parameters.extend(at_level(level.as_deref()).into_iter().chain(args.going.parameter()));
    let found = args.admin.get(&path(&parameters))?;
    if args.raw || args.output == Output::Text {
        tell_session(&found);
    }
    let held = Held::of(&found);
    let held = held.ok_or_else(|| Failure::Here("the sidecar told of a key without a value".to_owned()))?;
    let mut stdout = std::io::stdout();
    let told = match (args.raw, args.output) {
        (true, _) => match held {
            Held::Text(text) => text.into_bytes(),
            Held::Bytes(bytes) => bytes,
        },
        (false, Output::Json) => format!("{found:#}\n").into_bytes(),
        (false, Output::Text) => text(held, stdout.is_terminal())?.into_bytes(),
    };
    stdout.write_all(&told).and_then(|()| stdout.flush()).map_err(|_| Failure::Unheard)?;
    Ok(ExitCode::SUCCESS)
}

/// A value and an end of line. A terminal must not take it for commands.
pub(super) fn text(held: Held, for_terminal: bool) -> Result<String, Failure> {
    let harmless = |letter: char| match letter {
        '\n' | '\t' => letter,
        other if other.is_control() => '\u{fffd}',
        other => other,
    };
    match held {
        Held::Text(text) if for_terminal => Ok(text.chars().map(harmless).chain(['\n']).collect()),
        Held::Text(text) => Ok(text + "\n"),
        Held::Bytes(_) => {
            let what = "the value is no text: `--raw` prints its bytes, `-o json` shows them in base64";
            Err(Failure::Here(what.to_owned()))
        }
    }
}

/// Prints which keys there are.
pub(super) fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout();
    let mut items = Vec::new();
    pages(&args.admin, &args.prefix, args.reading, &args.going, |item| {
        if args.keys_only {
            return writeln!(stdout, "{}", shown_key(item)).map_err(|_| Failure::Unheard);
        }
        items.push(if args.output == Output::Json { item.clone() } else { shown(item) });
        Ok(())
    })?;
    let told = match (args.keys_only, args.output) {
        (true, _) => String::new(),
        (false, Output::Json) => {
            format!("{:#}\n", json!({ "apiVersion": API, "kind": "KeyValueList", "items": items }))
        }
        (false, Output::Text) => listed(&items),
    };
    stdout.write_all(told.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| Failure::Unheard)?;
    Ok(ExitCode::SUCCESS)
}

/// A key with so much of its value as a table shows: whole values of all keys may be more than there is memory for.
fn shown(item: &Value) -> Value {
    let held = Held::of(item).map_or_else(|| "-".to_owned(), |held| held.shown(WIDEST_VALUE));
    json!({
        "key": item["key"],
        "revision": item["revision"],
        "stamp": item["stamp"],
        "version": item["version"],
        "shown": held,
    })
}

/// Keys and the beginnings of their values.
pub(super) fn listed(items: &[Value]) -> String {
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    let row = |item: &Value| {
        let shown = item["shown"].as_str().unwrap_or_default().to_owned();
        let revision = item["stamp"].as_str().map_or_else(|| number(&item["revision"]), str::to_owned);
        [shown_key(item), revision, number(&item["version"]), shown]
    };
    columns(["KEY", "REVISION", "VERSION", "VALUE"], &items.iter().map(row).collect::<Vec<_>>())
}

/// Characters of a value that a table shows.
const WIDEST_VALUE: usize = 60;
