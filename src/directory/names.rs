//! From the host app's username to one that the workspace accepts.
//!
//! A name that the workspace accepts is used as it is. Any other gets a readable stem and a mark made of
//! the identity's id: always the same for the same identity and username, and never one that another
//! person could come by: the id is the host app's to give and not the person's to choose, and a username
//! that looks marked is marked again.

use aws_lc_rs::digest;

use crate::identity::Identity;
use crate::rocketchat::{UsernameRule, is_reserved};

/// Longer usernames are shortened; Rocket.Chat has no limit of its own, its screens do.
const LONGEST: usize = 80;
/// Stems are shortened to the first of these that the rule allows.
const STEMS: [usize; 6] = [40, 24, 16, 10, 5, 1];
/// Hexadecimal digits of a mark, behind the letter.
const DIGITS: usize = 12;
/// Not a hexadecimal digit, so that few names of people and machines look marked.
const LETTER: char = 'g';

/// The name for an identity's account; `None` when the rule allows no name that we could make.
pub(crate) fn account_name(identity: &Identity, rule: &UsernameRule) -> Option<String> {
    if is_usable(&identity.username, rule) { Some(identity.username.clone()) } else { marked_name(identity, rule) }
}

/// The identity's marked name: for a username that cannot be used, or is taken by something else.
pub(crate) fn marked_name(identity: &Identity, rule: &UsernameRule) -> Option<String> {
    let joiner = joiner(rule);
    let mark = mark(identity);
    let stem = stem(&identity.username, rule);
    let stems =
        STEMS.iter().map(|length| shorten(&stem, *length)).filter(|stem| !stem.is_empty()).chain(["user".to_owned(), String::new()]);
    for stem in stems {
        let name = if stem.is_empty() { mark.clone() } else { format!("{stem}{joiner}{mark}") };
        for name in [name.to_uppercase(), name.to_lowercase(), name].into_iter().rev() {
            if rule.allows(&name) && !is_reserved(&name) {
                return Some(name);
            }
        }
    }
    None
}

/// Whether a username can be an account's name as it is.
fn is_usable(name: &str, rule: &UsernameRule) -> bool {
    rule.allows(name)
        && !is_reserved(name)
        && !is_marked(name, joiner(rule))
        && name.chars().count() <= LONGEST
        && !name.starts_with('@')
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

/// Whether a name looks like one that we made.
fn is_marked(name: &str, joiner: &str) -> bool {
    let Some(cut) = name.len().checked_sub(DIGITS + 1).filter(|cut| name.is_char_boundary(*cut)) else { return false };
    let (stem, mark) = name.split_at(cut);
    let looks = mark.chars().next().is_some_and(|c| c.eq_ignore_ascii_case(&LETTER)) && mark[1..].bytes().all(|b| b.is_ascii_hexdigit());
    looks && (stem.is_empty() || stem.ends_with(joiner))
}

/// The mark: 48 bits of a hash over the id. The username is left out, since whoever may choose their own
/// could search for one that gives somebody else's mark.
fn mark(identity: &Identity) -> String {
    let hash = digest::digest(&digest::SHA256, identity.id.as_bytes());
    let mut mark = String::from(LETTER);
    for byte in hash.as_ref().iter().take(DIGITS / 2) {
        for nibble in [byte >> 4, byte & 15] {
            mark.extend(char::from_digit(nibble.into(), 16));
        }
    }
    mark
}

/// What stands between stem and mark.
fn joiner(rule: &UsernameRule) -> &'static str {
    ["-", ".", "_"].into_iter().find(|joiner| rule.allows_char(joiner.chars().next().unwrap_or('-'))).unwrap_or("")
}

/// The readable part: letters and digits that the rule allows, everything else turned into separators.
fn stem(username: &str, rule: &UsernameRule) -> String {
    let username = username.trim();
    // Of an e-mail address the part before the @; of @ada:example.org the name.
    let local = match username.strip_prefix('@') {
        Some(rest) => rest.split([':', '@']).next().unwrap_or(rest),
        None => username.split('@').next().unwrap_or(username),
    };
    let separator = [".", "-", "_"].into_iter().find(|s| rule.allows_char(s.chars().next().unwrap_or('.'))).unwrap_or("");
    let mut stem = String::new();
    for c in local.chars() {
        let lower = c.to_lowercase().next().unwrap_or(c);
        if (c.is_alphanumeric() || matches!(c, '.' | '-' | '_')) && rule.allows_char(c) {
            stem.push(c);
        } else if c.is_alphanumeric() && rule.allows_char(lower) {
            stem.push(lower);
        } else if !stem.ends_with(separator) {
            stem.push_str(separator);
        }
    }
    stem.trim_matches(['.', '-', '_']).to_owned()
}

fn shorten(stem: &str, length: usize) -> String {
    stem.chars().take(length).collect::<String>().trim_end_matches(['.', '-', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rocketchat::DEFAULT_RULE;

    fn identity(id: &str, username: &str) -> Identity {
        Identity {
            id: id.to_owned(),
            username: username.to_owned(),
            email: None,
            email_trusted: false,
            name: None,
            roles: Vec::new(),
            avatar: None,
        }
    }

    const UNICODE: &str = r"[\p{L}0-9-_.]+";
    const LOWER: &str = "[a-z0-9]{3,20}";
    const ANYTHING: &str = ".+";
    const RULES: [&str; 5] = [DEFAULT_RULE, UNICODE, LOWER, ANYTHING, "[A-Z0-9_]+"];

    #[test]
    fn names_are_kept_or_made() {
        for (rule, username, stem, kept) in [
            (DEFAULT_RULE, "ada.lovelace-1_x", "ada.lovelace-1_x", true),
            (DEFAULT_RULE, "Ada", "Ada", true),
            (DEFAULT_RULE, "Ada Lovelace", "Ada.Lovelace-g", false),
            (DEFAULT_RULE, "ada@example.com", "ada-g", false),
            (DEFAULT_RULE, "@ada:example.org", "ada-g", false),
            (DEFAULT_RULE, "jürgen", "j.rgen-g", false),
            (DEFAULT_RULE, "…!", "user-g", false),
            (DEFAULT_RULE, "", "user-g", false),
            (DEFAULT_RULE, "admin", "admin-g", false),
            (DEFAULT_RULE, "All", "All-g", false),
            (DEFAULT_RULE, "a/../b?c=d&e#f", "a...b.c.d.e.f-g", false),
            (DEFAULT_RULE, "ada-1a2b3c4d", "ada-1a2b3c4d", true),
            (DEFAULT_RULE, "ada-g1a2b3c4d5e6f", "ada-g1a2b3c4d5e6f-g", false),
            (DEFAULT_RULE, "ada-G1A2B3C4D5E6F", "ada-G1A2B3C4D5E6F-g", false),
            (UNICODE, "jürgen", "jürgen", true),
            (UNICODE, "jürgen m", "jürgen.m-g", false),
            (LOWER, "Ada Lovelace", "adalog", false),
            (ANYTHING, "@ada:example.org", "ada-g", false),
            (ANYTHING, "ada\u{7}", "ada-g", false),
            (ANYTHING, "Ada Lovelace", "Ada Lovelace", true),
        ] {
            let rule = UsernameRule::new(rule);
            let name = account_name(&identity("7", username), &rule).unwrap();
            assert!(name.starts_with(stem), "{username} became {name}");
            assert_eq!(name == username, kept, "{username} became {name}");
            assert!(rule.allows(&name));
        }
    }

    #[test]
    fn a_rule_that_no_made_name_fits_gives_none() {
        assert_eq!(account_name(&identity("7", "ada"), &UsernameRule::new("[0-9]{4}")), None);
    }

    #[test]
    fn a_mark_cannot_be_searched_for_by_choosing_a_username() {
        assert_eq!(mark(&identity("7", "ada!")), mark(&identity("7", "ada?")));
        assert_ne!(mark(&identity("7", "ada!")), mark(&identity("8", "ada!")));
    }

    proptest! {
        #[test]
        fn two_identities_never_share_a_name(a in "\\PC{0,30}", b in "\\PC{0,30}", ids in any::<(u32, u32)>(), rule in 0..RULES.len()) {
            let rule = UsernameRule::new(RULES[rule]);
            let (one, two) = (identity(&ids.0.to_string(), &a), identity(&ids.1.to_string(), &b));
            prop_assume!(a != b && ids.0 != ids.1);
            prop_assert_ne!(account_name(&one, &rule), account_name(&two, &rule));
        }

        #[test]
        fn nobody_can_choose_the_marked_name_of_another(a in "\\PC{0,30}", ids in any::<(u32, u32)>(), rule in 0..RULES.len()) {
            let rule = UsernameRule::new(RULES[rule]);
            let victim = marked_name(&identity(&ids.0.to_string(), &a), &rule).unwrap();
            prop_assume!(ids.0 != ids.1);
            for chosen in [victim.clone(), victim.to_uppercase()] {
                let attacker = account_name(&identity(&ids.1.to_string(), &chosen), &rule).unwrap();
                prop_assert_ne!(attacker.to_lowercase(), victim.to_lowercase());
            }
        }

        #[test]
        fn made_names_follow_the_rule_and_stay_the_same(a in "\\PC{0,100}", rule in 0..RULES.len()) {
            let rule = UsernameRule::new(RULES[rule]);
            let name = marked_name(&identity("7", &a), &rule).unwrap();
            prop_assert!(rule.allows(&name), "{}", name);
            prop_assert!(!is_reserved(&name) && name.chars().count() <= 60);
            prop_assert_eq!(Some(name), marked_name(&identity("7", &a), &rule));
        }
    }
}
