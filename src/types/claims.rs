//! What a verified token says of its bearer, as far as rules and headers can ask for it.

use std::collections::BTreeMap;

/// Claims by name. Those inside an object are named with dots (`realm_access.roles`), a list has several values, numbers
/// and booleans are their JSON text. Only ever made of a token whose signature was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Box<str>, Vec<Box<str>>>);

impl Claims {
    /// The values of one claim; none if the token lacks it.
    #[must_use]
    pub fn values(&self, name: &str) -> &[Box<str>] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether one of the values of `name` is `value`.
    #[must_use]
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.values(name).iter().any(|one| **one == *value)
    }
}

impl FromIterator<(Box<str>, Box<str>)> for Claims {
    /// Values of one name keep their order.
    fn from_iter<I: IntoIterator<Item = (Box<str>, Box<str>)>>(pairs: I) -> Self {
        let mut claims: BTreeMap<Box<str>, Vec<Box<str>>> = BTreeMap::new();
        for (name, value) in pairs {
            claims.entry(name).or_default().push(value);
        }
        Self(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_all_the_values_that_were_given_for_it() {
        let pairs = [("role", "admin"), ("sub", "ada"), ("role", "dev")];
        let claims: Claims = pairs.map(|(name, value)| (name.into(), value.into())).into_iter().collect();
        assert!(claims.has("role", "admin") && claims.has("role", "dev") && claims.has("sub", "ada"));
        assert!(!claims.has("role", "ada") && claims.values("aud").is_empty());
    }
}
