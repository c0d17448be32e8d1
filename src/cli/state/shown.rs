//! The shared state and its changes for people: lines that went with `-`, lines that came with `+`.

use serde_json::Value;

use super::items;
use crate::cli::{
    admin::printable,
    columns::{columns, word},
};

/// What has changed, entry by entry.
pub(super) fn diff(told: &Value) -> String {
    let mut text = format!("from revision {} to {}\n", told["from"], told["to"]);
    for item in items(told) {
        text.push_str(&entry(item));
    }
    if items(told).next().is_none() {
        text.push_str("nothing has changed\n");
    }
    text
}

/// Who has changed what.
pub(super) fn log(told: &Value) -> String {
    let row = |item: &Value| {
        let words = ["at", "change", "key", "author"].map(|name| word(&item[name]));
        let [at, change, key, author] = words;
        [item["revision"].to_string(), at, change, key, author]
    };
    columns(["REVISION", "AT", "CHANGE", "KEY", "AUTHOR"], &items(told).map(row).collect::<Vec<_>>())
}

/// What was put back, or would be.
pub(super) fn revert(told: &Value) -> String {
    let to = &told["to"];
    if items(told).next().is_none() {
        return format!("nothing to do: it is as it was at revision {to}\n");
    }
    let mut text: String = items(told).map(entry).collect();
    let last = match told["written"].as_u64() {
        Some(written) => format!("\nput back as at revision {to}: revision {written}\n"),
        None => format!("\nwould be put back as at revision {to}; seen at revision {}\n", told["revision"]),
    };
    text.push_str(&last);
    text
}

/// An entry: what became of it, by whom, and its lines.
fn entry(item: &Value) -> String {
    let mut text = format!("\n{} {}\n", word(&item["what"]), word(&item["key"]));
    for change in item["changes"].as_array().into_iter().flatten() {
        let [at, author, what] = ["at", "author", "change"].map(|name| word(&change[name]));
        text.push_str(&format!("  {what} at revision {}, {at}, by {author}\n", change["revision"]));
    }
    let side = |name: &str| item[name]["value"].as_str().unwrap_or_default().lines().collect::<Vec<_>>();
    let (before, after) = (side("before"), side("after"));
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let head = same(&mut before.iter().zip(&after));
    let most = before.len().min(after.len()) - head;
    let tail = same(&mut before.iter().rev().zip(after.iter().rev())).min(most);
    for (sign, lines) in [('-', &before), ('+', &after)] {
        for line in &lines[head..lines.len() - tail] {
            text.push_str(&format!("  {sign} {}\n", printable(line)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_who_and_shows_the_lines_that_differ() {
        let told = json!({
            "from": 3, "to": 9,
            "items": [
                {
                    "key": "routes/a", "what": "changed",
                    "before": { "value": "name: a\nservice: api\ntimeout: 1s\n" },
                    "after": { "value": "name: a\nservice: api-v2\nretry: {}\ntimeout: 1s\n" },
                    "changes": [{ "revision": 7, "change": "put", "at": "2026-01-31T14:02:00.000Z",
                                  "author": "user/alice via node/web-1" }],
                },
                { "key": "routes/b", "what": "removed", "before": { "value": "service: x" }, "after": null,
                  "changes": [] },
                { "key": "routes/c", "what": "same", "before": { "value": "x\nx" }, "after": { "value": "x\nx" } },
            ],
        });
        assert_eq!(
            diff(&told),
            "from revision 3 to 9\n\
             \nchanged routes/a\n  put at revision 7, 2026-01-31T14:02:00.000Z, by user/alice via node/web-1\n  \
             - service: api\n  + service: api-v2\n  + retry: {}\n\
             \nremoved routes/b\n  - service: x\n\nsame routes/c\n"
        );
        assert!(diff(&json!({ "from": 3, "to": 3, "items": [] })).ends_with("nothing has changed\n"));
    }

    #[test]
    fn lines_that_are_there_more_than_once_are_told_once() {
        let item = |before: &str, after: &str| json!({ "key": "k", "what": "changed", "before": { "value": before }, "after": { "value": after } });
        assert_eq!(entry(&item("x\nx", "x\nx\nx")), "\nchanged k\n  + x\n");
        assert_eq!(entry(&item("x\nx\nx", "x")), "\nchanged k\n  - x\n  - x\n");
        assert_eq!(entry(&item("", "a\u{1b}b")), "\nchanged k\n  + a b\n");
    }

    #[test]
    fn a_revert_says_whether_it_was_done() {
        let item = json!({ "key": "routes/a", "what": "added", "before": null, "after": { "value": "a" } });
        let tried = json!({ "to": 3, "revision": 9, "applied": false, "items": [item] });
        let would = "\nadded routes/a\n  + a\n\nwould be put back as at revision 3; seen at revision 9\n";
        assert_eq!(revert(&tried), would);
        let mut done = tried.clone();
        done["written"] = 10.into();
        assert!(revert(&done).ends_with("\nput back as at revision 3: revision 10\n"));
        assert!(revert(&json!({ "to": 3, "items": [] })).starts_with("nothing to do"));
    }
}
