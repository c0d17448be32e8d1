//! Join tokens: with one, whoever has no certificate yet gets its first. Each is for one service, for one time, and for
//! a while. It names the roots to trust, so that its bearer knows whom it talks to.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{
    Stamp,
    authority::{Authority, MINUTE, check_lifetime},
    csr,
    error::{CaError, TokenError},
    hex,
    issue::{Order, Signed, signed},
    names::{Fingerprint, TokenId, random, sha256},
    peers::{Wish, unconfirmed},
    state::{State, Token},
};
use crate::types::SpiffeId;

/// What its bearer has: `ort1.ID.SECRET.FINGERPRINT`, with as many fingerprints, joined by `-`, as there are roots.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: TokenId,
    secret: [u8; 32],
    pins: Vec<Fingerprint>,
}

impl JoinToken {
    /// Its name, which is no secret.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Fingerprints of the roots of which one must have signed whoever takes the token. One or two.
    #[must_use]
    pub fn pins(&self) -> &[Fingerprint] {
        &self.pins
    }

    /// The whole token, to be shown once or sent to the authority.
    #[must_use]
    pub fn reveal(&self) -> String {
        let pins: Vec<String> = self.pins.iter().map(ToString::to_string).collect();
        format!("{PREFIX}.{}.{}.{}", self.id, hex::encode(&self.secret), pins.join("-"))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.splitn(5, '.').collect();
        let [PREFIX, id, secret, pins] = parts[..] else { return Err(TokenError::Malformed) };
        let id = id.parse().map_err(|_| TokenError::Malformed)?;
        let secret = hex::decode(secret).ok_or(TokenError::Malformed)?;
        let pins: Vec<&str> = pins.splitn(MAX_PINS + 1, '-').collect();
        if pins.len() > MAX_PINS {
            return Err(TokenError::Malformed);
        }
        let pins: Result<Vec<Fingerprint>, _> = pins.into_iter().map(str::parse).collect();
        Ok(Self { id, secret, pins: pins.map_err(|_| TokenError::Malformed)? })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// Neither used nor expired.
    #[must_use]
    pub fn is_usable(&self, now: Stamp) -> bool {
        self.spent_at.is_none() && self.expires_at > now
    }
}

impl Authority {
    /// Makes a token for whoever shall be `identity`. Only a hash of its secret is kept.
    ///
    /// # Errors
    /// [`CaError::Lifetime`] unless `ttl` is between a minute and thirty days, [`CaError::Foreign`], [`CaError::Full`],
    /// and as [`Authority::open`].
    pub fn create_token(
        &self,
        identity: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(JoinToken, Token), CaError> {
        let now = Stamp::from(now);
        check_lifetime("join token", ttl, MINUTE, MAX_TTL)?;
        let (made, _) = self.change(now, |state| {
            if !identity.is_of(&state.trust_domain) {
                let (identity, trust_domain) = (identity.to_string(), state.trust_domain.to_string());
                return Err(CaError::Foreign { identity, trust_domain });
            }
            let pins = state.roots.iter().map(|root| root.fingerprint).collect();
            let bearer = JoinToken { id: TokenId::random()?, secret: random()?, pins };
            let token = Token {
                id: bearer.id,
                hash: hash(&bearer.secret),
                identity: identity.clone(),
                newest_root: state.newest_root(),
                created_at: now,
                expires_at: now.plus(ttl),
                spent_at: None,
            };
            state.tokens.push(token.clone());
            Ok((bearer, token))
        })?;
        Ok(made)
    }

    /// The tokens that were made, with those that ended in the last day.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn tokens(&self) -> Result<Vec<Token>, CaError> {
        Ok(self.state()?.tokens)
    }

    /// Takes a token back. Returns whether there was one.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn remove_token(&self, id: TokenId, now: SystemTime) -> Result<bool, CaError> {
        let (was_there, _) = self.change(Stamp::from(now), |state| {
            let count = state.tokens.len();
            state.tokens.retain(|token| token.id != id);
            Ok(state.tokens.len() < count)
        })?;
        Ok(was_there)
    }

    /// Signs the key of `request` for the identity that the token is for, and uses the token up. A request that is
    /// refused, also because it asks for another identity, leaves the token as it was.
    ///
    /// # Errors
    /// [`CaError::Token`], and as [`Authority::sign`].
    pub fn join(
        &self,
        request: &str,
        token: &JoinToken,
        wish: Wish,
        now: SystemTime,
    ) -> Result<Signed, CaError> {
        let now = Stamp::from(now);
        // Before the lock: whoever sends nonsense shall not keep others waiting.
        csr::public_key(request).map_err(CaError::Request)?;
        let (made, state) = self.change(now, |state| {
            let identity = spend(state, token, now).map_err(CaError::Token)?;
            let key = csr::public_key_for(request, &identity).map_err(CaError::Request)?;
            let Wish { node, ttl } = wish;
            let order = Order { identity, node, ttl };
            let made = self.add_leaf(state, &key, &order, now)?;
            Ok(unconfirmed(state, made))
        })?;
        Ok(signed(made, &state))
    }
}

/// Marks a token as used, and tells whom it is for.
fn spend(state: &mut State, bearer: &JoinToken, now: Stamp) -> Result<SpiffeId, TokenError> {
    let token = state.tokens.iter_mut().find(|token| token.id == bearer.id).ok_or(TokenError::Unknown)?;
    // The secret before anything else: who does not have it learns nothing of the token's condition.
    let is_bearer = verify_slices_are_equal(hash(&bearer.secret).as_bytes(), token.hash.as_bytes()).is_ok();
    if !is_bearer {
        return Err(TokenError::Unknown);
    }
    if token.spent_at.is_some() {
        return Err(TokenError::Spent);
    }
    if !token.is_usable(now) {
        return Err(TokenError::Expired);
    }
    token.spent_at = Some(now);
    Ok(token.identity.clone())
}

fn hash(secret: &[u8; 32]) -> Fingerprint {
    Fingerprint::from(sha256(secret))
}

const PREFIX: &str = "ort1";
/// Roots that are trusted at a time.
const MAX_PINS: usize = 2;
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
