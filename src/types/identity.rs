//! Who a workload is: SPIFFE identities. Parses names only; what proves one is in `identity`.
//! Source: the SPIFFE ID standard, spiffe.io, SPIFFE-ID.md.

use std::{fmt, str::FromStr, sync::Arc};

const SCHEME: &str = "spiffe://";
/// What the path of the identity of a service begins with.
const SERVICE_PATH: &str = "/service/";
/// The path of the identity of the certificate authority.
const AUTHORITY_PATH: &str = "/outrigger/ca";
/// Longest identity that implementations must take (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;
/// Longest name of a service, as in the configuration.
const MAX_SERVICE: usize = 64;
/// The trust domain of a mesh that was not given a name.
const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";

/// Why a text is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not begin with `spiffe://`.
    #[error("it does not begin with `spiffe://`")]
    Scheme,
    /// Empty, too long, or with other characters than lower-case letters, digits, `.`, `-` and `_`.
    #[error("the trust domain is not of lower-case letters, digits, `.`, `-` and `_`")]
    TrustDomain,
    /// No path, an empty segment, `.` or `..`, a character that segments do not have, a query or a fragment.
    #[error("the path is not of segments with letters, digits, `.`, `-` and `_`")]
    Path,
    /// More than 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

/// Whose identities are trusted together: one mesh. Lower case; compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of a service in it.
    ///
    /// # Errors
    /// [`IdentityError::Path`] if `name` is no name of a service: `[a-zA-Z0-9._-]{1,64}`, neither `.` nor `..`.
    pub fn service(&self, name: &str) -> Result<SpiffeId, IdentityError> {
        if !is_segment(name) || name.len() > MAX_SERVICE {
            return Err(IdentityError::Path);
        }
        Ok(SpiffeId {
            uri: format!("{SCHEME}{self}{SERVICE_PATH}{name}").into(),
            path_at: SCHEME.len() + self.0.len(),
        })
    }

    /// The identity of the certificate authority when it answers over the network. No service can have it.
    #[must_use]
    pub fn authority(&self) -> SpiffeId {
        SpiffeId {
            uri: format!("{SCHEME}{self}{AUTHORITY_PATH}").into(),
            path_at: SCHEME.len() + self.0.len(),
        }
    }
}

impl Default for TrustDomain {
    /// `mesh.local`, which no public name can be.
    fn default() -> Self {
        Self(DEFAULT_TRUST_DOMAIN.into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN || !text.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain);
        }
        Ok(Self(text.into()))
    }
}

/// The identity of a workload: `spiffe://TRUST-DOMAIN/PATH`, in its one canonical form. Those of Outrigger have the path
/// `/service/NAME`; others can be told apart, but name no service.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    path_at: usize,
}

impl SpiffeId {
    /// The whole identity.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain, as text.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.path_at]
    }

    /// Whether it belongs to `domain`.
    #[must_use]
    pub fn is_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.uri[self.path_at..]
    }

    /// The service it is the identity of; `None` if its path says something else.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        let name = self.path().strip_prefix(SERVICE_PATH)?;
        (!name.contains('/') && name.len() <= MAX_SERVICE).then_some(name)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_ID {
            return Err(IdentityError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        // User information, a port, upper case: none of them is in a trust domain.
        domain.parse::<TrustDomain>()?;
        if !path.split('/').all(is_segment) {
            return Err(IdentityError::Path);
        }
        Ok(Self { uri: text.into(), path_at: SCHEME.len() + domain.len() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// One segment of a path; neither of the two that mean another place.
fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_of_a_service_names_it_and_its_trust_domain() {
        let domain: TrustDomain = "mesh.local".parse().unwrap();
        let id = domain.service("web").unwrap();
        assert_eq!(id.as_str(), "spiffe://mesh.local/service/web");
        assert_eq!(TrustDomain::default(), domain);
        assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
        assert_eq!((id.trust_domain(), id.path(), id.service()), ("mesh.local", "/service/web", Some("web")));
        assert!(id.is_of(&domain) && !id.is_of(&"mesh.loca".parse().unwrap()));
    }

    #[test]
    fn identities_of_others_are_read_but_name_no_service() {
        let id: SpiffeId = "spiffe://mesh.local/ns/shop/sa/web".parse().unwrap();
        assert_eq!((id.path(), id.service()), ("/ns/shop/sa/web", None));
        let below: SpiffeId = "spiffe://mesh.local/service/web/1".parse().unwrap();
        assert_eq!(below.service(), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_identity() {
        use IdentityError::{Path, Scheme, TooLong, TrustDomain as Domain};
        for (text, error) in [
            ("", Scheme),
            ("https://mesh.local/service/web", Scheme),
            ("SPIFFE://mesh.local/service/web", Scheme),
            ("spiffe://", Path),
            ("spiffe://mesh.local", Path),
            ("spiffe://mesh.local/", Path),
            ("spiffe:///service/web", Domain),
            ("spiffe://Mesh.local/service/web", Domain),
            ("spiffe://mesh.local:80/service/web", Domain),
            ("spiffe://user@mesh.local/service/web", Domain),
            ("spiffe://mesh.local//service/web", Path),
            ("spiffe://mesh.local/service/web/", Path),
            ("spiffe://mesh.local/service/../web", Path),
            ("spiffe://mesh.local/service/./web", Path),
            ("spiffe://mesh.local/service/web?x=1", Path),
            ("spiffe://mesh.local/service/web#x", Path),
            ("spiffe://mesh.local/service/we%62", Path),
            ("spiffe://mesh.local/service/web\0", Path),
            ("spiffe://mesh.local/service/wéb", Path),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text:?}");
        }
        let long = format!("spiffe://mesh.local/service/{}", "x".repeat(MAX_ID));
        assert_eq!(long.parse::<SpiffeId>(), Err(TooLong));
    }

    #[test]
    fn names_that_would_escape_their_segment_have_no_identity() {
        let domain: TrustDomain = "mesh.local".parse().unwrap();
        for name in ["", ".", "..", "a/b", "a b", "a%2fb", &"x".repeat(65)] {
            assert_eq!(domain.service(name), Err(IdentityError::Path), "{name:?}");
        }
    }
}
