//! `outrigger intentions`: who may call whom, and the rules that all sidecars share.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    admin::{AdminArgs, AskError},
    columns::{columns, word},
    shared::{self, LsArgs, RmArgs, Writing, from, left_out},
};

/// List the rules about callers, write and remove those of all sidecars
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Rules in the store are added to those of the files; a rule that denies wins over all that allow.\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the rule is invalid, 4 the sidecar cannot be reached, 5 no such\n\
                  rule, or no store, 6 it denies access, 7 --cas does not hold, 8 not in time: a write may have happened.\n\n\
                  Examples:\n  outrigger intentions ls\n  outrigger intentions allow web --to shop\n  \
                  outrigger intentions deny 'batch-*' --to '*' --name no-batch\n  outrigger intentions rm web/shop"
)]
pub(super) struct IntentionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the rules about callers of this service, those about others, and those that are left out
    Ls(LsArgs),
    /// Let callers in
    Allow(RuleArgs),
    /// Keep callers out, whatever else lets them in
    Deny(RuleArgs),
    /// Remove a rule that was written for all sidecars
    Rm(RmArgs),
}

#[derive(clap::Args, Debug)]
struct RuleArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    writing: Writing,
    /// Whose callers: a service, `batch-*` or `*`. Default: the service of the sidecar that is asked
    #[arg(long, value_name = "SERVICE")]
    to: Option<String>,
    /// What the rule is called. Default: SOURCE/SERVICE, so that `deny` takes the place of `allow`
    #[arg(long)]
    name: Option<String>,
    /// Who: a service, `batch-*`, `*`, `anonymous` or a SPIFFE identity
    source: String,
}

/// Runs the command.
pub(super) fn intentions(args: &IntentionsArgs) -> ExitCode {
    match &args.action {
        Action::Ls(args) => args.list(PLACE, listed),
        Action::Allow(args) => args.writing.tell(write(args, "allow")),
        Action::Deny(args) => args.writing.tell(write(args, "deny")),
        Action::Rm(args) => shared::remove(args, PLACE),
    }
}

fn write(args: &RuleArgs, action: &str) -> Result<Value, AskError> {
    let to = match &args.to {
        Some(to) => to.clone(),
        None => args.admin.get("/v1/status")?["service"].as_str().unwrap_or_default().to_owned(),
    };
    let name = args.name.clone().unwrap_or_else(|| usual_name(&args.source, &to));
    let rule = json!({ "source": args.source, "action": action, "destination": to });
    args.admin.put_text(&args.writing.path(PLACE, &name), format!("{rule}\n"))
}

/// `web/shop`. No service has a slash in its name, so `/any` is none of them.
fn usual_name(source: &str, to: &str) -> String {
    let part = |text: &str| text.replace('*', "/any").replace("://", "/");
    format!("{}/{}", part(source), part(to))
}

/// The rules as people read them.
fn listed(told: &Value) -> String {
    let rows: Vec<[String; 6]> = told["items"].as_array().into_iter().flatten().map(row).collect();
    let table = columns(["NAME", "FROM", "SOURCE", "ACTION", "TO", "STATE"], &rows);
    let others = match told["default_action"].as_str() {
        Some(action) => format!("\nwho is in no rule: {action}\n"),
        None => String::new(),
    };
    table + &others + &left_out(told)
}

fn row(item: &Value) -> [String; 6] {
    let told = ["source", "action", "destination", "state"].map(|key| word(&item[key]));
    let [source, action, to, state] = told;
    [word(&item["name"]), from(item), source, action, to, state]
}

const PLACE: &str = "/v1/intentions";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_called_after_both_of_its_sides() {
        assert_eq!(usual_name("web", "shop"), "web/shop");
        assert_eq!(usual_name("batch-*", "*"), "batch-/any//any");
        assert_eq!(usual_name("spiffe://a.test/service/web", "shop"), "spiffe/a.test/service/web/shop");
    }

    #[test]
    fn rules_are_listed_with_where_they_are_from_and_for_whom() {
        let told = json!({
            "default_action": "deny",
            "items": [
                { "name": "own", "from": "file", "source": "shop", "action": "allow", "destination": "web",
                  "state": "applied" },
                { "name": "x/y", "from": "store", "revision": 4, "source": "x", "action": "deny",
                  "destination": "y", "state": "elsewhere" },
            ],
        });
        assert_eq!(
            listed(&told),
            "NAME  FROM     SOURCE  ACTION  TO   STATE\n\
             own   file     shop    allow   web  applied\n\
             x/y   store@4  x       deny    y    elsewhere\n\
             \nwho is in no rule: deny\n"
        );
    }
}
