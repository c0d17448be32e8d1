//! How services are called, by records: each key of one takes the place of that key of the service in the file. Where a
//! service is, and what it speaks, only the file says.

use super::{
    Base,
    compose::map_in,
    record::{Candidate, entry, text_entry},
};
use crate::{
    config::{
        codes,
        report::{Report, error},
        span::Span,
        tree::{Content, Entry, Node},
    },
    snapshot::Protocol,
};

/// Keys of a service that others may not set: they say where it is, and as whom it is spoken to.
const OF_THE_FILE: [&str; 6] = ["endpoints", "dns", "dns_refresh", "protocol", "tls", "send_proxy_protocol"];

/// Whether a key of a service is one that a record may set.
#[must_use]
pub fn is_policy(key: &str) -> bool {
    !OF_THE_FILE.contains(&key)
}

/// Checks what can be known without the file.
pub(super) fn check(node: &Node, report: &mut Report) {
    let Content::Map(entries) = &node.content else {
        report.add::<()>(
            error(codes::RECORD, node.span, format!("expected keys of a service, found {}", node.found()))
                .help("for example `circuit_breaker: { consecutive_errors: 5 }`"),
        );
        return;
    };
    for entry in entries.iter().filter(|entry| !is_policy(&entry.key)) {
        report.add::<()>(
            error(codes::RECORD, entry.key_span, format!("`{}` is not for all sidecars to say", entry.key))
                .label("only files do")
                .help("a policy says how a service is called, not where it is or what it speaks"),
        );
    }
}

/// Whether a record of a route has requests sent to `service`.
pub(super) fn names(route: &Node, service: &str) -> bool {
    let is_it = |node: &Node| matches!(&node.content, Content::Scalar(scalar) if scalar.text == service);
    let within = |node: &Node| entry(node, "service").is_some_and(is_it);
    let split = entry(route, "split").is_some_and(|split| match &split.content {
        Content::List(items) => items.iter().any(within),
        Content::Map(_) | Content::Scalar(_) => false,
    });
    split || within(route) || entry(route, "mirror").is_some_and(within)
}

impl Base {
    /// Whether the file has requests sent to `service`, or says something of it.
    pub(super) fn serves(&self, service: &str) -> bool {
        self.bundle().directory.clusters.iter().any(|cluster| *cluster.name == *service)
    }

    /// Puts a policy into the services of the tree. What was secret in what it replaces is gone from `masked`.
    pub(super) fn put_policy(&self, root: &mut Vec<Entry>, candidate: &Candidate, masked: &mut Vec<String>) {
        let Content::Map(keys) = candidate.entry().content else { return };
        let Some(services) = map_in(root, "services") else { return };
        let name = &*candidate.name;
        let at = services.iter().position(|service| service.key == name).unwrap_or_else(|| {
            let span = Span::new(candidate.offset, candidate.offset);
            let content = Content::Map(self.implied(name).into_iter().collect());
            services.push(Entry { key: name.to_owned(), key_span: span, value: Node { span, content } });
            services.len() - 1
        });
        let Some(service) = services.get_mut(at) else { return };
        if let Content::Scalar(_) = &service.value.content {
            // `api:` says nothing, as `api: {}` does.
            service.value.content = Content::Map(Vec::new());
        }
        let Content::Map(fields) = &mut service.value.content else { return };
        for key in keys {
            let place = format!("/services/{name}/{}", key.key);
            masked.retain(|pointer| {
                pointer.strip_prefix(&place).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/'))
            });
            match fields.iter_mut().find(|field| field.key == key.key) {
                Some(field) => *field = key,
                None => fields.push(key),
            }
        }
    }

    /// What a service that the file only names is besides, so that it stays that.
    fn implied(&self, name: &str) -> Option<Entry> {
        let mut clusters = self.bundle().directory.clusters.iter();
        let found = clusters.find(|cluster| *cluster.name == *name)?;
        (found.protocol == Protocol::Tcp).then(|| text_entry("protocol", "tcp", Span::default()))
    }
}
