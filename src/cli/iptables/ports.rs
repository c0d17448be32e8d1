//! Lists of ports as people write them: `8080,9000-9010`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// Ports, as ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    pub(super) fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                // nft refuses sets whose intervals overlap.
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// These and those together.
    pub(super) fn and(&self, others: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        Self::new(self.0.iter().cloned().chain(others))
    }

    pub(super) fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.trim().parse::<u16>() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(format!("`{text}` is no port; write ports and ranges as `8080,9000-9010`")),
        };
        let range = |text: &str| match text.split_once('-') {
            None => port(text).map(|port| port..=port),
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                if first <= last {
                    Ok(first..=last)
                } else {
                    Err(format!("`{text}` is an empty range; write the smaller port first"))
                }
            }
        };
        Ok(Self::new(text.split(',').map(range).collect::<Result<Vec<_>, _>>()?))
    }
}

/// Which ports of this machine are redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InboundPorts {
    /// Every port.
    All,
    /// These.
    Only(Ports),
}

impl FromStr for InboundPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::Only) }
    }
}

/// As nft writes a range.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Ports>().map_or_else(|error| error, |ports| ports.to_string())
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        assert_eq!(shown("9000-9010,22,9005-9020,9021,80"), "22, 80, 9000-9021");
        assert_eq!(shown("1-65535,65535"), "1-65535");
    }

    #[test]
    fn what_is_no_port_is_refused_with_the_way_to_write_it() {
        for text in ["", "0", "65536", "http", "1,,2", "-1"] {
            assert!(shown(text).contains("is no port; write"), "{text}: {}", shown(text));
        }
        assert!(shown("9-8").contains("empty range"));
    }
}
