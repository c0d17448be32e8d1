//! `outrigger ca token`: permissions to join, made, listed and taken back.

use std::{fmt::Write as _, time::Duration};

use serde_json::json;

use super::{Place, exit, failure::Failure, identity};
use crate::{
    cli::Output,
    identity::ca::{Stamp, Token, TokenId},
    rt,
};

#[derive(clap::Args, Debug)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    action: TokenAction,
}

#[derive(clap::Subcommand, Debug)]
enum TokenAction {
    /// Make a token, and print it: this once, and never again
    Create(CreateArgs),
    /// List the tokens
    Ls(ListArgs),
    /// Take a token back
    Rm(RemoveArgs),
}

#[derive(clap::Args, Debug)]
struct CreateArgs {
    #[command(flatten)]
    place: Place,
    /// Name of the service that may join
    service: String,
    /// How long it can be used
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args, Debug)]
struct RemoveArgs {
    #[command(flatten)]
    place: Place,
    /// Id of the token, its second part
    id: TokenId,
}

pub(super) fn token(args: &TokenArgs, notes: &mut Vec<String>) -> Result<String, Failure> {
    match &args.action {
        TokenAction::Create(args) => {
            let authority = args.place.open()?;
            let identity = identity(&authority, &args.service)?;
            let (bearer, token) = authority.create_token(&identity, args.ttl, rt::clock::wall())?;
            notes.push(format!(
                "token {} for one certificate of {}, until {}",
                token.id, token.identity, token.expires_at
            ));
            Ok(format!("{}\n", bearer.reveal()))
        }
        TokenAction::Ls(args) => {
            let tokens = args.place.open()?.tokens()?;
            Ok(list(&tokens, args.output, rt::clock::wall().into()))
        }
        TokenAction::Rm(args) => {
            if args.place.open()?.remove_token(args.id, rt::clock::wall())? {
                return Ok(format!("removed {}\n", args.id));
            }
            Err(Failure::new(exit::NOT_FOUND, format!("there is no token {}", args.id)))
        }
    }
}

fn list(tokens: &[Token], output: Output, now: Stamp) -> String {
    let state = |token: &Token| match token.spent_at {
        Some(_) => "used",
        None if token.is_usable(now) => "usable",
        None => "expired",
    };
    if output == Output::Json {
        let item = |token: &Token| {
            json!({
                "id": token.id.to_string(),
                "identity": token.identity.as_str(),
                "state": state(token),
                "created_at": token.created_at.to_string(),
                "expires_at": token.expires_at.to_string(),
                "used_at": token.spent_at.map(|at| at.to_string()),
            })
        };
        let items: Vec<_> = tokens.iter().map(item).collect();
        return format!("{:#}\n", json!({ "apiVersion": "v1", "kind": "JoinTokenList", "items": items }));
    }
    let mut text = String::new();
    for token in tokens {
        let _ =
            writeln!(text, "{} {:<7} {} until {}", token.id, state(token), token.identity, token.expires_at);
    }
    text
}
