//! One line for every change that somebody asks the admin API for: who, what, and what came of it. Reading leaves no
//! trace. The lines have a target of their own, `outrigger::audit`, which no level of the log silences.

use http::{Method, Request};

use super::{
    answer::{Answer, Author, Detail},
    dispatch::{KEYRING, KV},
    server::Caller,
};
use crate::telemetry::{log::AUDIT, metrics::AdminResult};

/// Bytes of a target or a detail that are written.
const LONGEST: usize = 256;

/// A change that is being made. Dropped before its end (whoever asked went away), it says that nobody knows.
pub(super) struct Audit {
    who: String,
    method: Method,
    what: String,
    ended: bool,
}

impl Audit {
    pub(super) fn begin<B>(caller: &Caller, request: &Request<B>) -> Self {
        let target = match request.uri().path() {
            // Nobody should put a key into a query, and whoever does shall not find it in the log.
            KEYRING => KEYRING,
            // Nor a value. What is removed is named there, and has none.
            KV if *request.method() != Method::DELETE => KV,
            _ => request.uri().path_and_query().map_or("", |target| target.as_str()),
        };
        Self {
            who: caller.to_string(),
            method: request.method().clone(),
            what: shortened(target).to_owned(),
            ended: false,
        }
    }

    /// It came to this.
    pub(super) fn end(mut self, answer: &Answer, result: AdminResult) {
        self.ended = true;
        let detail = answer.extensions().get::<Detail>().map_or("", |detail| shortened(&detail.0));
        let author = answer.extensions().get::<Author>().map(|author| author.0.as_str());
        let (who, method, what) = (&self.who, &self.method, &self.what);
        let (outcome, status) = (result.as_str(), answer.status().as_u16());
        if result == AdminResult::Ok {
            tracing::info!(target: AUDIT, who, author, %method, what, outcome, status, detail, "change by the admin API");
        } else {
            tracing::warn!(target: AUDIT, who, author, %method, what, outcome, status, detail, "change by the admin API");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.ended {
            let (who, method, what) = (&self.who, &self.method, &self.what);
            let detail = "whoever asked went away; what was begun goes on";
            tracing::warn!(target: AUDIT, who, %method, what, outcome = "unknown", detail, "change by the admin API");
        }
    }
}

/// The beginning of a text, up to a whole character.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_whole_character() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(200)).len(), 256);
        assert_eq!(shortened(&format!("x{}", "é".repeat(200))).len(), 255);
    }
}
