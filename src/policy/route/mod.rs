//! Chooses the route of a request: compiled once per configuration, then read by every request.
//! Here are the params; `table` finds, `conditions` decides one condition, `precedence` explains, `action` does
//! the pure part of what a route asks for (rewrites, redirects, header edits, the weighted split).

mod action;
mod conditions;
mod host;
mod precedence;
mod table;

pub use action::{RequestOrigin, TargetError, pick_target, redirect_location, rewrite_target, total_weight};
pub use host::host_without_port;
pub use precedence::PrecedenceRow;
pub use table::{RequestView, RouteTable};

pub(in crate::policy) use conditions::{header_holds as field_holds, query_value, value_holds};
pub(in crate::policy) use table::{ends_an_element, prefix_key};

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;

use super::{retry::RetryParams, traffic::TrafficParams};
use crate::types::Tags;

/// One route as configured: what it matches and what it does.
#[derive(Clone, Debug)]
pub struct RouteParams {
    /// Unique; a metric label, `[a-zA-Z0-9._/-]{1,64}`.
    pub name: Arc<str>,
    /// What a request must look like.
    pub matcher: RouteMatch,
    /// What happens to it.
    pub action: Action,
    /// Limit of the whole request, retries included; `None` is no limit.
    pub timeout: Option<Duration>,
    /// How failed attempts are repeated.
    pub retry: RetryParams,
    /// Edits of the request head on its way up.
    pub request_headers: HeaderEdits,
    /// Edits of the response head on its way down.
    pub response_headers: HeaderEdits,
    /// Rate limits, faults, copies, sticky splits.
    pub traffic: TrafficParams,
}

/// All conditions must hold; an empty list holds for every request.
#[derive(Clone, Debug, Default)]
pub struct RouteMatch {
    /// Any one of these hosts.
    pub hosts: Vec<HostPattern>,
    /// The path, without the query.
    pub path: PathPattern,
    /// Any one of these methods.
    pub methods: Vec<Method>,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
    /// All of these query parameters.
    pub query: Vec<QueryMatch>,
}

/// Host of `Host`/`:authority` without its port, compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this name, stored in lower case.
    Exact(String),
    /// `*.suffix`: one or more labels before the suffix; stored in lower case without `*`, as `.suffix`.
    Suffix(String),
}

/// The path of the request target, as it is sent upstream before any rewrite.
#[derive(Clone, Debug, Default)]
pub enum PathPattern {
    /// Every path.
    #[default]
    Any,
    /// Byte for byte.
    Exact(String),
    /// Element-wise: `/api` holds for `/api` and `/api/x`, not for `/apix`. A trailing slash is ignored.
    Prefix(String),
    /// The whole path must match (anchored at both ends by whoever compiles it).
    Regex(Regex),
}

/// Condition on a header field. A field that is present several times is joined with `, ` first, as
/// RFC 9110 §5.3 has it, so that nobody matches only the first of two.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Name of the field.
    pub name: HeaderName,
    /// Condition on its value.
    pub value: ValueMatch,
}

/// Condition on a query parameter; the first of that name counts, percent-encoding is not decoded.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// Name of the parameter.
    pub name: String,
    /// Condition on its value.
    pub value: ValueMatch,
}

/// Condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Equal, byte for byte.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// The whole value matches (anchored by whoever compiles it).
    Regex(Regex),
    /// Is there (true) or is not there (false).
    Present(bool),
}

/// What a route does with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends it to one of the targets, by weight.
    Forward {
        /// At least one target with a weight above zero.
        targets: Vec<Target>,
        /// Changes of path and host on the way up.
        rewrite: Rewrite,
    },
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers at once.
    Direct(DirectResponse),
}

/// A service and its share of the traffic of a route.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the service.
    pub service: Arc<str>,
    /// Which of its endpoints: those that have all of these tags.
    pub subset: Tags,
    /// Share relative to the other targets of the route, 0 to 1000.
    pub weight: u32,
}

/// Changes of the request target. Both may be set.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Replaces the matched prefix (prefix routes) or the whole path (all others).
    pub path: Option<PathRewrite>,
    /// Replaces Host/:authority.
    pub host: Option<HeaderValue>,
}

/// How the path is changed; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The prefix that the route matched becomes this one.
    Prefix(String),
    /// The whole path becomes this one.
    Full(String),
}

/// A redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`; `None` keeps the scheme of the request.
    pub scheme: Option<&'static str>,
    /// `None` keeps the host.
    pub host: Option<String>,
    /// `None` keeps the port (and drops it when the scheme changes).
    pub port: Option<u16>,
    /// `None` keeps the path.
    pub path: Option<PathRewrite>,
}

/// A response made by the proxy.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Sent as it is, `text/plain`; at most 64 KiB.
    pub body: bytes::Bytes,
}

/// Edits of a head, applied in the order remove, set, add.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Fields taken away.
    pub remove: Vec<HeaderName>,
    /// Fields whose value is replaced.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that get one more value.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}
