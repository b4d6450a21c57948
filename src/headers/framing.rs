//! Who may frame the chat.
//!
//! Rocket.Chat sends `X-Frame-Options: sameorigin` and no `frame-ancestors`. The former can name no site,
//! so that it goes; the latter is ours alone. All else of its Content-Security-Policy stays byte for byte.

use http::header::{CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderValue};

use super::prepared;
use crate::config::{Ancestor, Framing};

const FRAME_ANCESTORS: &[u8] = b"frame-ancestors";

/// The rule for framing, prepared once.
#[derive(Clone, Debug)]
pub struct FramingPolicy {
    own: HeaderValue,
}

impl FramingPolicy {
    /// Prepares `frame-ancestors 'self' …`, or `frame-ancestors *` where the config spells that out.
    pub fn new(framing: &Framing) -> Self {
        let own = if framing.allowed_ancestors.contains(&Ancestor::Anyone) {
            "frame-ancestors *".to_owned()
        } else {
            framing.allowed_ancestors.iter().fold("frame-ancestors 'self'".to_owned(), |policy, ancestor| policy + " " + ancestor.as_str())
        };
        Self { own: prepared(&own) }
    }

    /// Rewrites the headers of a response to `path`.
    ///
    /// A browser enforces every policy it gets, and from each only the first `frame-ancestors` (CSP 3
    /// §2.2.1, §6.4.2), so that the directive is taken out of all of them and one policy with ours is added.
    /// `Content-Security-Policy-Report-Only` forbids nothing and stays as it came.
    ///
    /// `/livechat` stays as it came altogether: Rocket.Chat makes a policy of its own for that widget, by the
    /// page that embeds it (`livechat.ts`), and the sites that may embed the widget are not those that may
    /// frame the chat.
    pub fn apply(&self, path: &str, headers: &mut HeaderMap) {
        if matches!(path, "/livechat" | "/livechat/") {
            return;
        }
        headers.remove(X_FRAME_OPTIONS);
        if headers.get_all(CONTENT_SECURITY_POLICY).iter().any(|field| mentions(field.as_bytes())) {
            let kept: Vec<HeaderValue> = headers.get_all(CONTENT_SECURITY_POLICY).iter().filter_map(without_ancestors).collect();
            headers.remove(CONTENT_SECURITY_POLICY);
            for field in kept {
                headers.append(CONTENT_SECURITY_POLICY, field);
            }
        }
        headers.append(CONTENT_SECURITY_POLICY, self.own.clone());
    }
}

/// Whether the directive's name occurs at all, in whatever place.
fn mentions(field: &[u8]) -> bool {
    field.windows(FRAME_ANCESTORS.len()).any(|w| w.eq_ignore_ascii_case(FRAME_ANCESTORS))
}

/// The field without the directive; `None` when nothing is left.
fn without_ancestors(field: &HeaderValue) -> Option<HeaderValue> {
    let bytes = field.as_bytes();
    // One field may hold several policies. A comma ends one wherever it stands, in a quoted value too.
    if !bytes.split(|&b| b == b',').any(has_ancestors) {
        return Some(field.clone());
    }
    let mut policies = Vec::new();
    for policy in bytes.split(|&b| b == b',') {
        if !has_ancestors(policy) {
            policies.push(policy.to_vec());
            continue;
        }
        let kept: Vec<&[u8]> = directives(policy).filter(|d| !is_ancestors(d)).collect();
        // A policy that said nothing else is gone.
        if kept.iter().any(|directive| !directive.trim_ascii().is_empty()) {
            policies.push(kept.join(&b';'));
        }
    }
    let rest = policies.join(&b',');
    let rest = rest.trim_ascii();
    (!rest.is_empty()).then(|| HeaderValue::from_bytes(rest).expect("bytes of a header value"))
}

fn has_ancestors(policy: &[u8]) -> bool {
    directives(policy).any(is_ancestors)
}

/// "strictly split serialized on the U+003B SEMICOLON character (;)" (CSP 3 §2.2.1).
fn directives(policy: &[u8]) -> impl Iterator<Item = &[u8]> {
    policy.split(|&b| b == b';')
}

/// "Strip leading and trailing ASCII whitespace", then "collect a sequence of code points that are not ASCII
/// whitespace", "set directive name to be the result of running ASCII lowercase" (CSP 3 §2.2.1).
fn is_ancestors(directive: impl AsRef<[u8]>) -> bool {
    let directive = directive.as_ref().trim_ascii_start();
    let name = directive.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    name.eq_ignore_ascii_case(FRAME_ANCESTORS)
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_SECURITY_POLICY_REPORT_ONLY;
    use proptest::prelude::*;

    use super::*;

    const APP: &str = "https://app.example.com";
    const OWN: &str = "frame-ancestors 'self' https://app.example.com https://*.example.org:8443";

    fn policy() -> FramingPolicy {
        policy_of(&[APP, "https://*.example.org:8443"])
    }

    fn policy_of(ancestors: &[&str]) -> FramingPolicy {
        FramingPolicy::new(&Framing { allowed_ancestors: ancestors.iter().map(|a| a.parse().unwrap()).collect() })
    }

    fn applied(path: &str, fields: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut headers = HeaderMap::new();
        headers.append(X_FRAME_OPTIONS, HeaderValue::from_static("sameorigin"));
        headers.append(X_FRAME_OPTIONS, HeaderValue::from_static("ALLOW-FROM https://x"));
        for field in fields {
            headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_bytes(field).unwrap());
        }
        policy().apply(path, &mut headers);
        assert!(!headers.contains_key(X_FRAME_OPTIONS));
        headers.get_all(CONTENT_SECURITY_POLICY).iter().map(|v| v.as_bytes().to_vec()).collect()
    }

    /// Rocket.Chat 3.x, and 4.x to 8.x with a CDN and hashes filled in.
    const ROCKETCHAT_3: &str = "default-src 'self' ; script-src 'self' 'unsafe-eval'; connect-src * 'self' data:; img-src data: 'self' http://* https://*; style-src 'self' 'unsafe-inline' ; media-src 'self' http://* https://*; frame-src 'self' http://* https://*; font-src 'self' data:;";
    const ROCKETCHAT_8: &str = "default-src 'self' https://cdn.example.com; connect-src *; font-src 'self' https://cdn.example.com data:; frame-src *; img-src * data: blob:; media-src * data:; script-src 'self' 'unsafe-eval' 'sha256-jqxtvDkBbRAl9Hpqv68WdNOieepg8tJSYu1xIy7zT34=' https://cdn.example.com; style-src 'self' 'unsafe-inline' https://cdn.example.com";

    #[test]
    fn real_policies() {
        for (fields, expected) in [
            (&[][..], &[][..]),
            (&[ROCKETCHAT_3], &[ROCKETCHAT_3]),
            (&[ROCKETCHAT_8], &[ROCKETCHAT_8]),
            // Several headers; several policies in one.
            (&[ROCKETCHAT_8, "frame-ancestors 'none'"], &[ROCKETCHAT_8]),
            (&["default-src 'self'", "img-src *; frame-ancestors *"], &["default-src 'self'", "img-src *"]),
            (&["default-src 'self', frame-ancestors 'none'"], &["default-src 'self'"]),
            (&["frame-ancestors 'none', default-src 'self'"], &["default-src 'self'"]),
            (&["a x, frame-ancestors 'none', b y"], &["a x, b y"]),
            (&["a x,frame-ancestors 'none';b y,c"], &["a x,b y,c"]),
            (&["frame-ancestors 'none',frame-ancestors *"], &[]),
            (&["frame-ancestors 'none';"], &[]),
            (&["frame-ancestors 'none' ; ;, ;"], &[";"]),
            (&["frame-ancestors"], &[]),
            // Every place in a policy; repeated; odd case and spacing.
            (&["frame-ancestors 'none'; default-src 'self'"], &["default-src 'self'"]),
            (&["default-src 'self'; frame-ancestors 'none'"], &["default-src 'self'"]),
            (&["default-src 'self'; frame-ancestors 'none';"], &["default-src 'self';"]),
            (&["a;\t Frame-Ancestors\t*; b; FRAME-ANCESTORS;frame-ancestors x;;c "], &["a; b;;c"]),
            // Other directives that only look like it.
            (&["x-frame-ancestors *; frame-ancestors-2 *"], &["x-frame-ancestors *; frame-ancestors-2 *"]),
            (&["report-uri /frame-ancestors; sandbox frame-ancestors"], &["report-uri /frame-ancestors; sandbox frame-ancestors"]),
            (&["frame-src frame-ancestors 'none'"], &["frame-src frame-ancestors 'none'"]),
            (&[" , ,default-src 'self'"], &[" , ,default-src 'self'"]),
        ] {
            let mut expected: Vec<_> = expected.iter().map(|e| e.as_bytes().to_vec()).collect();
            expected.push(OWN.as_bytes().to_vec());
            let fields: Vec<_> = fields.iter().map(|f| f.as_bytes()).collect();
            assert_eq!(applied("/channel/general", &fields), expected, "{fields:?}");
        }
        // Bytes that are not UTF-8.
        assert_eq!(applied("/", &[b"a \xff\xfe; frame-ancestors \xff; b \x80"])[0], b"a \xff\xfe; b \x80");
    }

    #[test]
    fn livechat_and_report_only_stay_as_they_came() {
        let mut before = HeaderMap::new();
        before.insert(X_FRAME_OPTIONS, HeaderValue::from_static("sameorigin"));
        before.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors https://shop.example"));
        before.insert(CONTENT_SECURITY_POLICY_REPORT_ONLY, HeaderValue::from_static("frame-ancestors 'none'; default-src 'self'"));
        for (path, touched) in [
            ("/livechat", false),
            ("/livechat/", false),
            ("/livechat/x", true),
            ("/livechats", true),
            ("/Livechat", true),
            ("//livechat", true),
            ("/", true),
        ] {
            let mut after = before.clone();
            policy().apply(path, &mut after);
            assert_eq!(after != before, touched, "{path}");
            assert_eq!(after.get(CONTENT_SECURITY_POLICY_REPORT_ONLY), before.get(CONTENT_SECURITY_POLICY_REPORT_ONLY), "{path}");
        }
    }

    #[test]
    fn our_own_policy() {
        for (ancestors, expected) in [
            (&[][..], "frame-ancestors 'self'"),
            (&[APP], "frame-ancestors 'self' https://app.example.com"),
            (&[APP, "*"], "frame-ancestors *"),
        ] {
            assert_eq!(policy_of(ancestors).own, expected);
        }
    }

    /// A parser of its own, after CSP 3 §2.2.1 and §2.2.2, over text in which each byte is one character.
    mod reference {
        pub(super) type Policy = Vec<(String, String)>;

        /// "Parse a response's Content Security Policies", for the enforced header.
        pub(super) fn policies(fields: &[Vec<u8>]) -> Vec<Policy> {
            let combined = fields.iter().map(|f| f.iter().map(|&b| char::from(b)).collect::<String>()).collect::<Vec<_>>().join(", ");
            combined.split(',').map(policy).filter(|p| !p.is_empty()).collect()
        }

        fn policy(serialized: &str) -> Policy {
            let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}');
            let mut set = Policy::new();
            for token in serialized.split(';') {
                let token = token.trim_matches(blank);
                if token.is_empty() || !token.is_ascii() {
                    continue;
                }
                let name = token.split(blank).next().unwrap_or_default().to_ascii_lowercase();
                if set.iter().any(|(known, _)| *known == name) {
                    continue;
                }
                let value = token[name.len()..].trim_matches(blank).to_owned();
                set.push((name, value));
            }
            set
        }

        /// Whether a page of `origin` may frame: every policy that speaks of it has to agree (§6.4.2.1).
        /// Knows the sources that the tests use.
        pub(super) fn may_frame(policies: &[Policy], origin: &str) -> bool {
            let matches = |source: &str| match source {
                "*" => true,
                "'self'" => origin == "https://chat.example.com",
                "https://*.example.org:8443" => origin.starts_with("https://") && origin.ends_with(".example.org:8443"),
                exact => exact == origin,
            };
            policies
                .iter()
                .filter_map(|policy| policy.iter().find(|(name, _)| name == "frame-ancestors"))
                .all(|(_, sources)| sources.split_ascii_whitespace().any(matches))
        }
    }

    /// Directives of all kinds, many of them frame-ancestors in some spelling.
    fn directive() -> impl Strategy<Value = Vec<u8>> {
        let any_case = proptest::collection::vec(any::<bool>(), FRAME_ANCESTORS.len()).prop_map(|upper| {
            FRAME_ANCESTORS.iter().zip(upper).map(|(b, up)| if up { b.to_ascii_uppercase() } else { *b }).collect::<Vec<u8>>()
        });
        let other = prop_oneof![
            Just(b"default-src".to_vec()),
            Just(b"frame-src".to_vec()),
            Just(b"x-frame-ancestors".to_vec()),
            Just(b"frame-ancestors-x".to_vec()),
            proptest::collection::vec(prop_oneof![0x21_u8..=0x7e, 0x80_u8..=0xff], 0..6)
                .prop_map(|b| b.into_iter().filter(|b| !b",;".contains(b)).collect()),
        ];
        let value = prop_oneof![
            Just(Vec::new()),
            Just(b" 'none'".to_vec()),
            Just(b" *".to_vec()),
            Just(b"\t'self' https://evil.example".to_vec()),
            Just(b" frame-ancestors".to_vec()),
            Just(b" \xff\x80".to_vec()),
        ];
        ("[ \t]{0,2}", prop_oneof![any_case, other], value, "[ \t]{0,2}")
            .prop_map(|(before, name, value, after)| [before.as_bytes(), &name, &value, after.as_bytes()].concat())
    }

    fn fields() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let policy = proptest::collection::vec(directive(), 0..4).prop_map(|d| d.join(&b';'));
        let field = proptest::collection::vec(policy, 0..4).prop_map(|p| p.join(&b','));
        proptest::collection::vec(field, 0..4)
    }

    /// All directives of all fields but ours, as raw bytes without the blanks around them.
    fn others(fields: &[Vec<u8>]) -> Vec<Vec<u8>> {
        fields
            .iter()
            .flat_map(|f| f.split(|b| b",;".contains(b)))
            .map(|d| d.trim_ascii().to_vec())
            .filter(|d| !d.is_empty())
            .filter(|d| {
                let name: Vec<u8> = d.iter().copied().take_while(|b| !b" \t".contains(b)).collect();
                name.to_ascii_lowercase() != FRAME_ANCESTORS
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_other_directive_changes_by_a_byte(fields in fields()) {
            let before: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            let after = applied("/", &before);
            let (own, rest) = after.split_last().unwrap();
            prop_assert_eq!(own, OWN.as_bytes());
            prop_assert_eq!(others(rest), others(&fields));
            // What a browser makes of it is the same too, policy by policy.
            let strip = |policies: Vec<reference::Policy>| -> Vec<reference::Policy> {
                policies.into_iter()
                    .map(|p| p.into_iter().filter(|(name, _)| name != "frame-ancestors").collect::<Vec<_>>())
                    .filter(|p| !p.is_empty())
                    .collect()
            };
            prop_assert_eq!(strip(reference::policies(rest)), strip(reference::policies(&fields)));
        }

        #[test]
        fn exactly_the_listed_can_frame(fields in fields()) {
            let before: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            let policies = reference::policies(&applied("/", &before));
            for (origin, may) in [
                ("https://chat.example.com", true),
                (APP, true),
                ("https://a.example.org:8443", true),
                ("https://evil.example", false),
                ("http://app.example.com", false),
                ("https://app.example.com.evil.example", false),
                ("null", false),
            ] {
                prop_assert_eq!(reference::may_frame(&policies, origin), may, "{} {:?}", origin, policies);
            }
        }
    }
}
