//! The stable codes of everything that `check` can find, with the paragraph that `--explain` prints.
//! OR1xx is shape, OR2xx is meaning, OR3xx is advice. A code is never reused for something else.

/// A kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    id: &'static str,
    explanation: &'static str,
}

impl Code {
    /// What people cite: `OR104`.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.id
    }

    /// What it means, why it is refused, and what to do.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        self.explanation
    }

    /// The code called `id`, in any case.
    #[must_use]
    pub fn find(id: &str) -> Option<Self> {
        ALL.iter().find(|code| code.id.eq_ignore_ascii_case(id)).copied()
    }
}

macro_rules! codes {
    ($($name:ident = $id:literal, $explanation:literal;)*) => {
        $(pub(super) const $name: Code = Code { id: $id, explanation: $explanation };)*
        /// Every code, in ascending order.
        pub(super) const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    UNREADABLE = "OR100", "The text cannot be a configuration at all: larger than 4 MiB, not UTF-8, nested deeper \
        than 128 levels, or made of more than 500000 values. These bounds protect a running sidecar from a file \
        that was overwritten with something else. Check that the path names the file you meant.";
    SYNTAX = "OR101", "The text is not YAML. The position is where the parser gave up; the mistake is there or \
        shortly before it, most often an indentation that does not line up, a missing colon, an unclosed quote or \
        bracket, or an unquoted value that contains `: `, ` #`, `{` or `[`. Quote the value when in doubt.";
    UNSUPPORTED_YAML = "OR102", "YAML anchors, aliases, tags, merge keys, compound keys and several documents in one \
        file are refused. They make it hard to see what a sidecar will do, and aliases can multiply a small file \
        into a huge one. Write the value out, or put common values under `defaults`.";
    DUPLICATE_KEY = "OR103", "The same key stands twice in one mapping. YAML readers disagree on which of them counts, \
        so neither is taken. Delete one, or merge their contents.";
    UNKNOWN_KEY = "OR104", "The key means nothing here. Keys are never ignored, because a misspelt limit would \
        otherwise look as if it were in force. The notes list what may stand here; spelling is snake_case.";
    LATER_KEY = "OR105", "The key belongs to Outrigger's configuration, but this version does not act on it yet. It is \
        refused rather than ignored, so that nobody relies on protection that is not there. Remove it.";
    MISSING_KEY = "OR106", "A key without a default value is missing. The message names it and the help shows how to \
        write it.";
    WRONG_TYPE = "OR107", "The value has the wrong kind: for example a list where a text belongs, a number where a text \
        belongs (quote it), or nothing at all after the colon. An empty value is never taken for an empty text; \
        write `\"\"` where you mean that.";
    BAD_QUANTITY = "OR108", "Durations and sizes are a number with a unit, so that nobody has to guess. Durations: `h`, \
        `m`, `s`, `ms`, from the largest to the smallest, as in `1h30m`, `15s` or `500ms`. Sizes: `B`, `KB`, `KiB`, \
        `MB`, `MiB`, as in `60KiB`. Shares: a number with a percent sign, as in `5%`.";
    UNKNOWN_WORD = "OR109", "The key takes one of a few words, and this is none of them. The notes list them all.";
    LATER_WORD = "OR110", "The value belongs to Outrigger's configuration, but this version cannot do it yet. It is \
        refused rather than replaced by something similar. The notes list what works today.";
    OUT_OF_RANGE = "OR111", "The number or duration is outside of what can work; the message gives the bounds.";
    MALFORMED = "OR112", "The text does not have the form that the key needs: an address (`ip:port` or \
        `unix:/absolute/path`), a name, a path that begins with `/`, a header name or value, a host, a method. The \
        message says which form, the help shows an example.";
    SUBSTITUTION = "OR113", "`${env:NAME}` stands for an environment variable and `${file:/path}` for the content of a \
        file without its last line break. The variable must be set and the file readable and at most 64 KiB, \
        otherwise the configuration is refused: an empty secret is worse than no start. Write `$${` for a literal \
        `${`.";
    CHOICE = "OR114", "Of several keys exactly one must be there, and there is none or more than one. For example a \
        route has one of `service`, `split`, `redirect` and `direct_response`.";
    UNKNOWN_SERVICE = "OR201", "A route sends requests to a service that is not defined under `services`. Requests on \
        it could only fail. Define the service, or correct the name.";
    DUPLICATE_NAME = "OR202", "Two routes, or two rules of `intentions`, have the same name. Names are labels of metrics \
        and logs, so they must tell them apart. A rule without a `name` is called after its place in the list, `rule-1`. A route without a `name` is called after its service and its place in the list, `api-1`.";
    DUPLICATE_ENDPOINT = "OR203", "The same address stands twice among the endpoints of a service. It would be counted, \
        checked and loaded twice. Give it a higher `weight` if it should get more requests.";
    NO_WEIGHT = "OR204", "All weights of a `split` are 0, so no service would get any request. Give at least one of them \
        a weight above 0.";
    HASH_ON_MISSING = "OR205", "`ring_hash`, `maglev` and `jump_hash` need to know what of a request is hashed: give \
        `hash_on` with one of `header`, `cookie`, `path`, `query` or `source_address`.";
    HASH_ON_UNUSED = "OR206", "The key belongs to another load-balancing policy: `hash_on` and `max_load` to those that \
        hash (`ring_hash`, `maglev`, `jump_hash`), `full_scan` to `least_request`. Choose such a policy, or remove \
        the key.";
    ADDRESS_CLASH = "OR207", "Two listeners would have to bind the same port of the same address. The second one could \
        not start.";
    ADMIN_EXPOSED = "OR208", "Whoever reaches the admin API can read the configuration and change it. On loopback \
        (127.0.0.0/8 or ::1) and on a Unix socket (`unix:/path`, mode 0600) that is whoever is on this machine, or its \
        owner; anywhere else `admin.token` must say who. For scrapers and probes there is `admin.metrics_address`, which \
        may be any address and serves nothing but `/metrics`, `/livez` and `/readyz`.";
    BAD_REGEX = "OR209", "The regular expression does not compile, or its compiled form is larger than 1 MiB. The syntax \
        is that of Rust's regex crate: like Perl's, without look-around and back-references. Expressions are matched \
        against the whole value; `^` and `$` are not needed.";
    PER_TRY_TOO_LONG = "OR210", "`retry.per_try_timeout` is longer than the `timeout` of the whole request, which \
        includes all tries, so the limit of one try could never be reached. Make it shorter, by a factor of the \
        number of tries, or raise `timeout`.";
    CHECK_TIMEOUT = "OR211", "A health check may take as long as the time between two checks, or longer, so checks would \
        overlap or their rhythm would slip. Make `timeout` smaller than `interval`.";
    FORBIDDEN_HEADER = "OR212", "This header frames the message or belongs to a single connection (RFC 9110 section 7.6.1). \
        The proxy writes it itself; editing it would let two parties disagree on where a message ends. For the Host \
        header use `rewrite.host`.";
    PLAINTEXT = "OR213", "Sidecars speak mutual TLS to each other, and for that each needs a certificate, its key and the \
        roots that it trusts: `mtls.ca` says where they are, and `outrigger ca` makes them. A mesh in plaintext has to be \
        written down, as `mtls: { mode: disabled }`, so that nobody takes it for an encrypted one.";
    BAD_STATUS = "OR214", "The status is not one that this action can send: redirects use 301, 302, 303, 307 or 308, \
        direct responses 200 to 599.";
    LOOP = "OR215", "The proxy would send requests to one of its own listeners, which would send them there again, \
        until a limit is reached. Point the address at the application or the other service.";
    PREFIX_REWRITE = "OR216", "`path_prefix` in a rewrite or redirect replaces the part of the path that the route \
        matched, so the route needs `match.path_prefix`. Use `path` to replace the whole path.";
    FORGETS_HALF = "OR217", "A server of the store keeps two things: who it is (`mesh.data_dir`), and what it has promised and \
        written (`store.data_dir`). One that kept its name and lost its log could vote twice in one term, and what was \
        acknowledged could be lost. Keep both or neither: without both it is another server after each start.";
    STORE_EXPOSED = "OR218", "Whoever reaches the port of the store can change what all sidecars serve. With mutual TLS only \
        members of the mesh can; without it everybody can who is on the network. Switch `mtls` on, or let the store listen on \
        loopback, where only this machine is.";
    NOT_BUILT = "OR219", "This binary was built without the part that is asked for. Build it with the cargo feature that the \
        message names (`cargo build --release --features NAME`), or remove the key.";
    NOT_TCP = "OR230", "A service of `protocol: tcp` takes bytes, and requests cannot be routed to it; a listener under \
        `listeners.tcp` takes bytes, and cannot pass them to a service that speaks HTTP, which has retries, limits and \
        timeouts of its own. Correct the name, or the `protocol` of the service.";
    UNKNOWN_ROLE = "OR240", "A rule of `intentions` names a role that is not under `intentions.roles`. What it may do is \
        unknown, so it could neither allow nor deny anything. Define the role, or correct the name.";
    UNREAD = "OR241", "The application speaks `protocol: tcp`: its connections are passed on as bytes that nobody reads, so \
        there is no token to verify (`intentions.jwt`) and no request to ask another service about \
        (`intentions.ext_authz`). Rules about callers hold for connections, too. Set `service.protocol` to what the \
        application speaks, or remove the key.";
    RECORD = "OR250", "An entry that was written into the store for all sidecars does not fit: its `name` is not that of its \
        key, its `destination` names no services, a rule of the file has its name, or there is more than a sidecar takes \
        over (1000 entries, 1 MiB). It is left out, and everything else is served. Write it anew, or remove it.";
    YAML_WORD = "OR301", "YAML 1.1 readers take this unquoted word for a truth value or a number (`on`, `yes`, `012`, \
        `22:22`), YAML 1.2 readers take it for text. Outrigger takes it for text; other tools that read this file may \
        not. Quote it.";
    LONG_IDLE = "OR302", "Connections to a service are kept idle for longer than 60 s. Most servers close idle \
        connections after 60 s or less; when both ends race, requests fail on a connection that is just being \
        closed. Stay below the idle timeout of the server.";
    PERMISSIVE = "OR303", "With `mtls.mode: permissive` a caller without a certificate is let in as anonymous, beside those \
        who prove who they are. It is for the time in which a mesh moves to mTLS; once nobody needs it any more, which \
        `outrigger_mtls_plaintext_connections_total` shows, go on to `strict`.";
    NO_EFFECT = "OR304", "The key has no effect together with another one that is set. Take one of them away, so that \
        nobody relies on it.";
    NOBODY = "OR305", "With mTLS, callers are allowed by a rule under `intentions` or refused, and there are no rules: every \
        request from another service would be answered 403. Write down who may call this service; \
        `intentions: { rules: [{ source: \"*\", action: allow }] }` lets in everybody who belongs to the mesh. A sidecar \
        that only calls others, and is called by nobody, may leave it at that with `intentions: { rules: [] }`.";
    ADMIN_PLAINTEXT = "OR306", "The admin API speaks no TLS, so whoever is on the way to this address can read the token, \
        and use it. Listen on loopback or on a Unix socket, and come in by what is encrypted (an SSH tunnel, `kubectl \
        port-forward`), or keep the address to a network that is trusted.";
    FORGETFUL = "OR307", "Without `mesh.data_dir` a sidecar does not remember who it was: after each start it is another \
        member, and the one it was before counts as dead until it is forgotten. Nor does it remember the keyring: once \
        `outrigger keyring rm` has taken away the key that stands in the file, it cannot come back. Name a directory that \
        outlives the process, or write `data_dir: none`.";
    SHADOWED = "OR310", "No request can reach this route: an earlier route with the same precedence takes every request \
        that it would match. Delete one of them, or make its match narrower.";
    EMPTY_SUBSET = "OR311", "A route asks for endpoints with tags that no endpoint of the service has. Its requests fail, \
        or go to any endpoint where the service says `subset_fallback: any`. Correct the tags of the route or of the \
        endpoints.";
    NEVER_DECIDES = "OR320", "No request is ever decided by this rule: an earlier one of the same source and action \
        matches whatever this one does, or a rule that denies all requests of its source wins over it. Delete one of \
        the two, or make it narrower.";
    NO_IDENTITIES = "OR321", "The rule is about callers with an identity, and without mTLS nobody has one: all callers \
        are `anonymous`, and the rule matches nobody. A rule that denies then protects nothing. Use `source: anonymous` \
        while `mtls.mode` is `disabled`.";
    ALLOWS_BY_DEFAULT = "OR322", "Callers that no rule is about may do everything, also those that nobody thought of. \
        Leave `default_action` at `deny`, and write down who may call.";
    ONLY_AUDITED = "OR323", "Nothing is refused: what the rules deny passes, and is counted and logged. That is meant for \
        trying out rules. Set `mode: enforce` when `outrigger_authz_decisions_total{action=\"audit_deny\"}` shows what \
        you expect.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_ascending_and_found_in_any_case() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(Code::find("or104"), Some(UNKNOWN_KEY));
        assert_eq!(Code::find("OR999"), None);
    }
}
