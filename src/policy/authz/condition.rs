//! Decides whether one rule matches one request. Where it can be doubted what a request means to the application, a
//! rule that allows matches only if every meaning fits, and a rule that denies as soon as one does.

use http::{HeaderMap, HeaderValue, Method};
use regex::Regex;

use super::{Action, ClaimMatch, Permission, Request, RuleParams, Scope, reading};
use crate::{
    policy::route::{HeaderMatch, PathPattern, ends_an_element, field_holds, prefix_key, value_holds},
    types::Claims,
};

/// A rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Condition {
    /// Of the rule.
    pub(super) index: usize,
    action: Action,
    /// `None` holds for everything.
    permissions: Option<Vec<Compiled>>,
    claims: Vec<ClaimMatch>,
}

#[derive(Debug)]
struct Compiled {
    methods: Vec<Method>,
    path: Path,
    headers: Vec<HeaderMatch>,
}

/// A pattern in both readings of paths.
#[derive(Debug)]
enum Path {
    Any,
    Exact { sent: Box<str>, free: Box<str> },
    Prefix { sent: Box<str>, free: Box<str> },
    Regex(Regex),
}

/// What of a request is looked at again and again.
pub(super) struct View<'a> {
    method: &'a Method,
    path: reading::Readings<'a>,
    headers: &'a HeaderMap,
    claims: Option<&'a Claims>,
}

impl<'a> View<'a> {
    pub(super) fn new(request: &Request<'a>) -> Self {
        let Request { source: _, method, path, headers, claims } = *request;
        Self { method, path: reading::Readings::new(path), headers, claims }
    }
}

impl Condition {
    pub(super) fn new(index: usize, rule: &RuleParams) -> Self {
        let permissions = match &rule.scope {
            Scope::Everything => None,
            Scope::Permissions(permissions) | Scope::Role(_, permissions) => {
                Some(permissions.iter().map(Compiled::new).collect())
            }
        };
        Self { index, action: rule.action, permissions, claims: rule.claims.clone() }
    }

    /// Whether it holds for a request; `None` is a connection whose bytes are passed on unread, of which nothing but
    /// the caller is known.
    pub(super) fn holds(&self, view: Option<&View<'_>>) -> bool {
        let Some(view) = view else {
            // What cannot be seen may be what is denied, and may not be what is allowed.
            return self.action == Action::Deny || (self.permissions.is_none() && self.claims.is_empty());
        };
        let permitted =
            |permissions: &Vec<Compiled>| permissions.iter().any(|one| one.holds(view, self.action));
        self.permissions.as_ref().is_none_or(permitted) && self.claims_hold(view.claims)
    }

    fn claims_hold(&self, claims: Option<&Claims>) -> bool {
        let holds = |claims: &Claims| {
            self.claims.iter().all(|one| one.values.iter().any(|value| claims.has(&one.name, value)))
        };
        self.claims.is_empty() || claims.is_some_and(holds)
    }
}

impl Compiled {
    fn new(permission: &Permission) -> Self {
        let Permission { methods, path, headers } = permission;
        let both = |text: &str| (Box::from(text), Box::from(&*reading::freely(text)));
        let path = match path {
            PathPattern::Any => Path::Any,
            PathPattern::Exact(path) => {
                let (sent, free) = both(path);
                Path::Exact { sent, free }
            }
            PathPattern::Prefix(prefix) => {
                let (sent, free): (Box<str>, Box<str>) = both(prefix);
                Path::Prefix { sent: prefix_key(&sent).into(), free: prefix_key(&free).into() }
            }
            PathPattern::Regex(regex) => Path::Regex(regex.clone()),
        };
        Self { methods: methods.clone(), path, headers: headers.clone() }
    }

    fn holds(&self, view: &View<'_>, action: Action) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| is_method(method, view.method, action)))
            && self.headers.iter().all(|header| header_holds(header, view.headers, action))
            && self.path.holds(view, action)
    }
}

impl Path {
    fn holds(&self, view: &View<'_>, action: Action) -> bool {
        if matches!(self, Self::Any) {
            return true;
        }
        let sent = self.holds_as_sent(view.path.sent());
        match action {
            _ if view.path.is_plain() => sent,
            Action::Allow => sent && view.path.free().all(|path| self.holds_freely(path)),
            Action::Deny => sent || view.path.free().any(|path| self.holds_freely(path)),
        }
    }

    fn holds_as_sent(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact { sent, free: _ } => **sent == *path,
            Self::Prefix { sent, free: _ } => begins(path, sent),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    fn holds_freely(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact { sent: _, free } => **free == *path,
            Self::Prefix { sent: _, free } => begins(path, free),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

fn begins(path: &str, prefix: &str) -> bool {
    path.starts_with(prefix) && ends_an_element(path, prefix.len())
}

/// Methods are case-sensitive (RFC 9110 §9.1), but not every application knows.
fn is_method(wanted: &Method, method: &Method, action: Action) -> bool {
    wanted == method || (action == Action::Deny && wanted.as_str().eq_ignore_ascii_case(method.as_str()))
}

/// An application may take the first, the last, or all of several fields of one name, and may take fields for ones of
/// that name which are not.
fn header_holds(header: &HeaderMatch, headers: &HeaderMap, action: Action) -> bool {
    let holds = |value: &HeaderValue| value_holds(&header.value, value.as_bytes());
    let mut alike = headers
        .iter()
        .filter(|(name, _)| **name != header.name && reading::reads_as(name.as_str(), header.name.as_str()));
    match action {
        Action::Allow => field_holds(header, headers) && alike.all(|(_, value)| holds(value)),
        Action::Deny => {
            field_holds(header, headers)
                || headers.get_all(&header.name).iter().any(holds)
                || alike.any(|(_, value)| holds(value))
        }
    }
}
