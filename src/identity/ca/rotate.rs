//! The change from one root to the next, in three steps, none of which may be taken before everybody is ready for it:
//! trust the new root, sign with it, trust the old root no more.

use std::time::{Duration, SystemTime};

use super::{
    Stamp,
    authority::Authority,
    error::CaError,
    state::{Leaf, Phase, State},
};

/// What a rotation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a new root and adds it to the bundle. The old one still signs.
    Trust,
    /// The new root signs from now on. Both are trusted.
    Reissue,
    /// The old root leaves the bundle, and its key is deleted.
    Drop,
}

impl Step {
    /// As text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reissue => "reissue",
            Self::Drop => "drop",
        }
    }
}

/// Whether a step is taken for which somebody is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is not.
    No,
    /// It is: those who do not trust the new root refuse what it signs, and those who present the old one after it was
    /// dropped are refused by everybody.
    Yes,
}

/// One step, with what it depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Which.
    pub step: Step,
    /// Generation of the root that goes.
    pub old: u32,
    /// Generation of the root that comes.
    pub new: u32,
    /// Live certificates of the old root whose instance has no live one of the new root, or has not been seen to use it.
    /// While there are any, the old root is not dropped.
    pub in_the_way: Vec<Leaf>,
    /// Live certificates whose instance was never handed the new root, so that it may not trust it. While there are any,
    /// the new root does not sign. As far as the authority knows: bundles that were copied by hand it does not see. Empty
    /// while there is no new root.
    pub unaware: Vec<Leaf>,
    /// Join tokens that can still be used, but pin only the old root.
    pub stale_tokens: usize,
}

impl Authority {
    /// The step that [`Self::rotate`] would take now.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn rotation(&self, now: SystemTime) -> Result<Rotation, CaError> {
        Ok(next(&self.state()?, Stamp::from(now)))
    }

    /// Takes the next step, and returns it. One that fails may be repeated.
    ///
    /// # Errors
    /// Unless forced: [`CaError::Unaware`] if the new root shall sign and is not known to everybody,
    /// [`CaError::InTheWay`] if the old root is still needed. And as [`Authority::open`].
    pub fn rotate(&self, force: Force, now: SystemTime) -> Result<Rotation, CaError> {
        let now = Stamp::from(now);
        let (taken, _) = self.change(now, |state| {
            let rotation = next(state, now);
            match rotation.step {
                Step::Trust => {
                    let ttl = Duration::from_secs(state.root_ttl_s);
                    state.roots.push(self.make_root(rotation.new, ttl, now)?);
                }
                Step::Reissue if force == Force::No && !rotation.unaware.is_empty() => {
                    return Err(CaError::Unaware(rotation.unaware));
                }
                Step::Reissue => state.signing = rotation.new,
                Step::Drop if force == Force::No && !rotation.in_the_way.is_empty() => {
                    return Err(CaError::InTheWay(rotation.in_the_way));
                }
                Step::Drop => state.roots.retain(|root| root.generation != rotation.old),
            }
            Ok(rotation)
        })?;
        Ok(taken)
    }
}

fn next(state: &State, now: Stamp) -> Rotation {
    let (step, old, new) = match state.phase() {
        Phase::Steady => (Step::Trust, state.signing, state.signing.saturating_add(1)),
        Phase::Trust => (Step::Reissue, state.signing, state.newest_root()),
        Phase::Reissue => {
            (Step::Drop, state.roots.first().map_or(state.signing, |root| root.generation), state.signing)
        }
    };
    let (unaware, stale_tokens) = match step {
        Step::Trust => (Vec::new(), 0),
        Step::Reissue | Step::Drop => {
            let tokens = state.tokens.iter().filter(|token| token.is_usable(now) && token.newest_root < new);
            (state.unaware(now), tokens.count())
        }
    };
    Rotation { step, old, new, in_the_way: state.dependents(old, now), unaware, stale_tokens }
}
