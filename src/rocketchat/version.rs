//! The workspace's version, as far as it tells strangers: `/api/info` trims it to two parts.

use std::fmt;

use serde_json::Value;

/// Major and minor version of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first part.
    pub major: u16,
    /// The second part.
    pub minor: u16,
}

impl Version {
    /// 8.0: `users.createToken` wants a secret in the body.
    pub const SECRET_IN_BODY: Self = Self::new(8, 0);
    /// 8.0: `users.list` filters by `email`.
    pub const LIST_BY_EMAIL: Self = Self::new(8, 0);
    /// 8.4: `users.info` finds by `email`.
    pub const INFO_BY_EMAIL: Self = Self::new(8, 4);

    /// A version.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Reads "8.8", "8.8.1", "9.0.0-rc.8", "8".
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().trim_start_matches('v').split(['.', '-', '+']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next().map_or(Some(0), |part| part.parse().ok())?;
        Some(Self { major, minor })
    }

    /// From the answer of `/api/info`: `version`, or `info.version` where the caller may see statistics.
    pub(crate) fn of_info(answer: &Value) -> Option<Self> {
        let text = answer.get("version").or_else(|| answer.pointer("/info/version"))?;
        Self::parse(text.as_str()?)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn two_parts_are_read() {
        for (text, version) in [
            ("8.8", Some(Version::new(8, 8))),
            ("6.5.0", Some(Version::new(6, 5))),
            ("9.0.0-rc.8", Some(Version::new(9, 0))),
            ("v7.13.9", Some(Version::new(7, 13))),
            ("8", Some(Version::new(8, 0))),
            ("", None),
            ("develop", None),
            ("8.x", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text}");
        }
    }

    #[test]
    fn the_info_answer_has_two_shapes() {
        assert_eq!(Version::of_info(&json!({"version": "8.8", "success": true})), Some(Version::new(8, 8)));
        assert_eq!(Version::of_info(&json!({"info": {"version": "6.5.3"}, "success": true})), Some(Version::new(6, 5)));
        assert_eq!(Version::of_info(&json!({"success": true})), None);
    }
}
