//! How much a request matters when not all can be served. The caller says so; what does not say is in the middle.

/// Classes of requests, the least important first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Work that can wait or be left out: prefetches, batches.
    Sheddable,
    /// Everything that says nothing.
    #[default]
    Default,
    /// What must be the last to be refused.
    Critical,
}

impl Priority {
    /// All classes, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Sheddable, Self::Default, Self::Critical];

    /// How the header and metrics call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Default => "default",
            Self::Critical => "critical",
        }
    }

    /// Reads `x-outrigger-priority`; what is no class is [`Priority::Default`].
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let named = Self::ALL.into_iter().find(|priority| priority.as_str().as_bytes() == value.trim_ascii());
        named.unwrap_or_default()
    }

    /// Share of a limit that the class may use, in percent.
    #[must_use]
    pub const fn share_percent(self) -> u32 {
        match self {
            Self::Sheddable => 75,
            Self::Default => 90,
            Self::Critical => 100,
        }
    }
}
