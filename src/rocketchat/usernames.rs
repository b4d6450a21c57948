//! Which usernames the workspace accepts.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// Rocket.Chat's own default for `UTF8_User_Names_Validation`.
pub const DEFAULT_RULE: &str = "[0-9a-zA-Z-_.]+";

/// Names that Rocket.Chat never gives away (`Accounts_SystemBlockedUsernameList`, and the mentions).
const RESERVED: [&str; 6] = ["admin", "administrator", "all", "here", "system", "user"];

/// The workspace's rule for usernames: `^` + the setting `UTF8_User_Names_Validation` + `$`.
#[derive(Clone)]
pub struct UsernameRule(Regex);

impl UsernameRule {
    /// From the setting's value; a pattern that cannot be used means the default, as in Rocket.Chat itself.
    pub fn new(pattern: &str) -> Self {
        let pattern = if pattern.is_empty() { DEFAULT_RULE } else { pattern };
        compile(pattern).map_or_else(Self::default, Self)
    }

    /// Whether the workspace accepts this name.
    pub fn allows(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether a name may contain this character somewhere in the middle.
    pub fn allows_char(&self, c: char) -> bool {
        ["", "a", "aaa", "A", "0"].iter().any(|side| self.0.is_match(&format!("{side}{c}{side}")))
    }
}

impl Default for UsernameRule {
    fn default() -> Self {
        Self(compile(DEFAULT_RULE).expect("the default pattern is a constant"))
    }
}

impl fmt::Debug for UsernameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

fn compile(pattern: &str) -> Option<Regex> {
    // The pattern comes from the workspace's admins: a bound, so that it cannot eat our memory.
    RegexBuilder::new(&format!("^{pattern}$")).size_limit(1 << 20).build().ok()
}

/// Whether Rocket.Chat keeps the name for itself, in any case of letters.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_anchored_and_falls_back_to_the_default() {
        for (pattern, name, allowed) in [
            (DEFAULT_RULE, "ada.lovelace-1_x", true),
            (DEFAULT_RULE, "ada lovelace", false),
            (DEFAULT_RULE, "jürgen", false),
            (DEFAULT_RULE, "", false),
            (DEFAULT_RULE, "ada\n", false),
            (r"[\p{L}0-9-_.]+", "jürgen", true),
            ("[a-z]{3,}", "Ada", false),
            ("([", "ada-1", true),
            ("(?=x)x", "ada", true),
            ("", "ada", true),
        ] {
            assert_eq!(UsernameRule::new(pattern).allows(name), allowed, "{pattern} {name}");
        }
    }

    #[test]
    fn reserved_names_are_reserved_in_any_case() {
        assert!(is_reserved("admin") && is_reserved("Administrator") && is_reserved("HERE"));
        assert!(!is_reserved("admins"));
    }
}
