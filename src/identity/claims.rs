//! From what a source says to an [`Identity`]: each field is found by a JSON pointer (RFC 6901), and what
//! is missing or has the wrong type is named.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use url::Url;

use super::{Identity, misconfigured};
use crate::config;
use crate::error::{Refusal, RefusalKind};

/// Longest text of any one claim, in bytes.
const LONGEST: usize = 512;
/// Longest address of a picture, in bytes: those of object stores carry a signature.
const LONGEST_URL: usize = 2_048;

/// A claim that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimError {
    /// The claim as the config names it.
    pub(crate) claim: &'static str,
    /// Where it was looked for.
    pub(super) pointer: String,
    /// What is wrong with it.
    pub(super) fault: Fault,
    /// Who is disabled, by the identity's id.
    pub(super) disabled: Option<String>,
}

/// What is wrong with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NoPointer,
    Missing,
    /// The claim, or something on the way to it, is `null`: said to be nobody.
    Null,
    Type {
        found: &'static str,
        expected: &'static str,
    },
    /// A number that JSON parsers do not agree on; two people could become one.
    Inexact,
    Blank,
    TooLong,
    Control,
    /// The host app says that the person is disabled.
    Inactive,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPointer => f.write_str("has no pointer in the config"),
            Self::Missing => f.write_str("is missing"),
            Self::Null => f.write_str("is null"),
            Self::Type { found, expected } => write!(f, "is {found}, expected {expected}"),
            Self::Inexact => f.write_str("is a number that is fractional or too large, expected a string or a whole number"),
            Self::Blank => f.write_str("is blank"),
            Self::TooLong => write!(f, "is longer than {LONGEST} bytes"),
            Self::Control => f.write_str("holds control characters"),
            Self::Inactive => f.write_str("says that the person is disabled"),
        }
    }
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, pointer, fault, .. } = self;
        if *fault == Fault::NoPointer {
            write!(f, "claim {claim} {fault}: set identity.claims.{claim}")
        } else {
            write!(f, "claim {claim} at {pointer} {fault} (identity.claims.{claim} says where it is looked for)")
        }
    }
}

impl From<ClaimError> for Refusal {
    fn from(error: ClaimError) -> Self {
        let Some(id) = &error.disabled else { return misconfigured(error.to_string()) };
        Refusal::new(RefusalKind::UserNotAllowed, "Your account is disabled.", error.to_string()).about(id, id, [])
    }
}

/// The identity that `said` holds.
///
/// An empty pointer means: the id stands in (`username`), or the field is not used (all but `id`).
pub(crate) fn identity(said: &Value, claims: &config::Claims) -> Result<Identity, ClaimError> {
    let id = read("id", &claims.id, |pointer| stable_id(required(said, pointer)?))?;
    if !claims.active.is_empty() && !read("active", &claims.active, |pointer| active(said.pointer(pointer)))? {
        let (pointer, fault) = (claims.active.clone(), Fault::Inactive);
        return Err(ClaimError { claim: "active", pointer, fault, disabled: Some(id) });
    }
    let username = if claims.username.is_empty() {
        id.clone()
    } else {
        read("username", &claims.username, |pointer| text(string(required(said, pointer)?)?))?
    };
    let email = read("email", &claims.email, |pointer| optional_text(pointed(said, pointer)))?;
    let name = read("name", &claims.name, |pointer| optional_text(pointed(said, pointer)))?;
    let roles = read("roles", &claims.roles, |pointer| roles(pointed(said, pointer)))?;
    let email_trusted = !denied(pointed(said, &claims.email_verified));
    let avatar = pointed(said, &claims.avatar).and_then(picture);
    Ok(Identity { id, username, email: email.as_deref().map(lowered), email_trusted, name, roles, avatar })
}

/// The identity provider's id of the session. One that cannot be used is none: nobody is kept out for it.
pub(super) fn sid(said: &Value, claims: &config::Claims) -> Option<String> {
    stable_id(pointed(said, &claims.sid)?).ok()
}

/// When a token was made (RFC 7519 §4.1.6). One that cannot be read is none.
pub(super) fn issued(said: &Value) -> Option<SystemTime> {
    let seconds = said.get("iat")?.as_f64()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// What a logout token calls somebody: the id where the host app has it, or `sub`.
pub(super) fn subject(said: &Value, pointer: &str) -> Option<String> {
    stable_id(pointed(said, pointer).or_else(|| said.get("sub"))?).ok()
}

/// Text that must say something: not blank, not too long, no control characters. White space around it
/// is dropped.
pub(super) fn text(value: &str) -> Result<String, Fault> {
    exact_text(value.trim())
}

/// The same to the byte, for ids: two that differ in white space only are two.
pub(super) fn exact_text(value: &str) -> Result<String, Fault> {
    if value.trim().is_empty() {
        return Err(Fault::Blank);
    }
    if value.len() > LONGEST {
        return Err(Fault::TooLong);
    }
    if value.chars().any(char::is_control) {
        return Err(Fault::Control);
    }
    Ok(value.to_owned())
}

/// Text that may say nothing.
pub(super) fn text_if_any(value: &str) -> Result<Option<String>, Fault> {
    match text(value) {
        Ok(text) => Ok(Some(text)),
        Err(Fault::Blank) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// An e-mail address as it is compared.
pub(super) fn lowered(email: &str) -> String {
    email.to_lowercase()
}

/// The words between commas.
pub(super) fn words(list: &str, separator: impl Fn(char) -> bool) -> Result<Vec<String>, Fault> {
    list.split(separator).filter_map(|word| text_if_any(word).transpose()).collect()
}

fn read<T>(claim: &'static str, pointer: &str, value: impl FnOnce(&str) -> Result<T, Fault>) -> Result<T, ClaimError> {
    value(pointer).map_err(|fault| ClaimError { claim, pointer: pointer.to_owned(), fault, disabled: None })
}

/// `None` for a field that is not used, missing or `null`.
fn pointed<'a>(said: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.is_empty() {
        return None;
    }
    said.pointer(pointer).filter(|value| !value.is_null())
}

fn required<'a>(said: &'a Value, pointer: &str) -> Result<&'a Value, Fault> {
    if pointer.is_empty() {
        return Err(Fault::NoPointer);
    }
    if let Some(value) = pointed(said, pointer) {
        return Ok(value);
    }
    // {"user": null} says "nobody" for /user/id just as {"user": {"id": null}} does.
    let ends = pointer.match_indices('/').map(|(end, _)| end).chain([pointer.len()]);
    let null = ends.filter_map(|end| said.pointer(&pointer[..end])).any(Value::is_null);
    Err(if null { Fault::Null } else { Fault::Missing })
}

fn string(value: &Value) -> Result<&str, Fault> {
    value.as_str().ok_or(Fault::Type { found: type_of(value), expected: "a string" })
}

/// A string, or a whole number as its decimal text.
fn stable_id(value: &Value) -> Result<String, Fault> {
    match value {
        Value::String(id) => exact_text(id),
        Value::Number(id) if id.is_u64() || id.is_i64() => Ok(id.to_string()),
        Value::Number(_) => Err(Fault::Inexact),
        other => Err(Fault::Type { found: type_of(other), expected: "a string or a whole number" }),
    }
}

fn optional_text(value: Option<&Value>) -> Result<Option<String>, Fault> {
    value.map_or(Ok(None), |value| text_if_any(string(value)?))
}

fn roles(value: Option<&Value>) -> Result<Vec<String>, Fault> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::String(list)) => words(list, |c| c == ',' || c.is_whitespace()),
        Some(Value::Array(list)) => {
            let role = |value: &Value| match value {
                Value::String(role) => text_if_any(role),
                other => Err(Fault::Type { found: list_with(other), expected: "a list of strings" }),
            };
            list.iter().filter_map(|value| role(value).transpose()).collect()
        }
        Some(other) => Err(Fault::Type { found: type_of(other), expected: "a list of strings, or one string" }),
    }
}

/// Whether somebody may be here. Whoever has set the pointer wants to be told so: what is missing, `null`, or a word that
/// is not known to mean yes, means no.
fn active(value: Option<&Value>) -> Result<bool, Fault> {
    const YES: [&str; 7] = ["true", "1", "yes", "on", "active", "activated", "enabled"];
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(active)) => Ok(*active),
        Some(Value::Number(number)) => Ok(number.as_f64().is_some_and(|number| number != 0.0)),
        Some(Value::String(word)) => Ok(YES.contains(&word.trim().to_ascii_lowercase().as_str())),
        Some(other) => Err(Fault::Type { found: type_of(other), expected: "true or false" }),
    }
}

/// The address of a picture. Anything else that stands there is none: nobody is kept out for a picture.
fn picture(value: &Value) -> Option<String> {
    let url = Url::parse(value.as_str().filter(|text| text.len() <= LONGEST_URL)?.trim()).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then(|| url.into())
}

/// Whether the host app says that it does not vouch for the address.
fn denied(verified: Option<&Value>) -> bool {
    match verified {
        Some(Value::Bool(verified)) => !verified,
        Some(Value::String(verified)) => verified.trim().eq_ignore_ascii_case("false"),
        _ => false,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn list_with(value: &Value) -> &'static str {
    match value {
        Value::Null => "a list with a null in it",
        Value::Bool(_) => "a list with a boolean in it",
        Value::Number(_) => "a list with a number in it",
        Value::String(_) => "a list with a string in it",
        Value::Array(_) => "a list with a list in it",
        Value::Object(_) => "a list with an object in it",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn claims() -> config::Claims {
        config::Claims {
            id: "/sub".to_owned(),
            username: "/user/name".to_owned(),
            email: "/email".to_owned(),
            email_verified: "/email_verified".to_owned(),
            name: "/name".to_owned(),
            roles: "/groups".to_owned(),
            sid: "/sid".to_owned(),
            active: String::new(),
            avatar: "/picture".to_owned(),
        }
    }

    fn with(field: &str, value: Value) -> Value {
        let mut said = json!({"sub": "42", "user": {"name": "ada"}, "email": "Ada@Example.com", "name": "Ada", "groups": ["a"]});
        said[field] = value;
        said
    }

    #[test]
    fn every_field_is_found_at_its_pointer() {
        let found = identity(&with("email_verified", json!(true)), &claims()).unwrap();
        let expected = Identity {
            id: "42".to_owned(),
            username: "ada".to_owned(),
            email: Some("ada@example.com".to_owned()),
            email_trusted: true,
            name: Some("Ada".to_owned()),
            roles: vec!["a".to_owned()],
            avatar: None,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_picture_is_a_web_address_or_none_at_all() {
        for (value, expected) in [
            (json!("https://app.example.com/a.png?s=1"), Some("https://app.example.com/a.png?s=1")),
            (json!(" http://10.0.0.1/a "), Some("http://10.0.0.1/a")),
            (json!("/relative.png"), None),
            (json!("data:image/png;base64,AAAA"), None),
            (json!("file:///etc/passwd"), None),
            (json!("javascript:alert(1)"), None),
            (json!("https://user:pass@app.example.com/a.png"), None),
            (json!(format!("https://a.example/{}", "x".repeat(3000))), None),
            (json!(5), None),
            (json!(null), None),
        ] {
            assert_eq!(identity(&with("picture", value.clone()), &claims()).unwrap().avatar.as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn ids_are_strings_or_whole_numbers() {
        for (value, expected) in [
            (json!("u-1"), "u-1"),
            (json!(" padded "), " padded "),
            (json!(0), "0"),
            (json!(-7), "-7"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!("ünï"), "ünï"),
        ] {
            assert_eq!(identity(&with("sub", value), &claims()).unwrap().id, expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let long = "x".repeat(LONGEST + 1);
        for (field, value, expected) in [
            ("sub", json!(null), "claim id at /sub is null"),
            ("sub", json!(true), "claim id at /sub is a boolean, expected a string or a whole number"),
            ("sub", json!(1.5), "claim id at /sub is a number that is fractional or too large"),
            ("sub", serde_json::from_str("18446744073709551616").unwrap(), "claim id at /sub is a number that is fractional or too large"),
            ("sub", json!(" \t"), "claim id at /sub is blank"),
            ("sub", json!(long), "claim id at /sub is longer than 512 bytes"),
            ("sub", json!("a\u{0}b"), "claim id at /sub holds control characters"),
            ("sub", json!("42\n"), "claim id at /sub holds control characters"),
            ("user", json!({}), "claim username at /user/name is missing"),
            ("user", json!("ada"), "claim username at /user/name is missing"),
            ("user", json!({"name": 5}), "claim username at /user/name is a number, expected a string"),
            ("user", json!({"name": ""}), "claim username at /user/name is blank"),
            ("email", json!(5), "claim email at /email is a number, expected a string"),
            ("email", json!("a\nb@example.com"), "claim email at /email holds control characters"),
            ("name", json!(["Ada"]), "claim name at /name is a list, expected a string"),
            ("groups", json!({"a": true}), "claim roles at /groups is an object, expected a list of strings, or one string"),
            ("groups", json!(["a", 1]), "claim roles at /groups is a list with a number in it, expected a list of strings"),
        ] {
            let error = identity(&with(field, value.clone()), &claims()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{value}: {error}");
        }
        let error = identity(&json!({"user": {"name": "ada"}}), &claims()).unwrap_err();
        assert_eq!((error.claim, error.fault), ("id", Fault::Missing));
        let error = identity(&json!({}), &config::Claims { id: String::new(), ..claims() }).unwrap_err().to_string();
        assert_eq!(error, "claim id has no pointer in the config: set identity.claims.id");
    }

    #[test]
    fn null_on_the_way_to_the_id_is_told_from_a_missing_id() {
        let claims = config::Claims { id: "/data/user/id".to_owned(), ..claims() };
        for (said, expected) in [
            (json!({"data": null}), Fault::Null),
            (json!({"data": {"user": null}}), Fault::Null),
            (json!({"data": {"user": {"id": null}}}), Fault::Null),
            (json!({"data": {"user": {}}}), Fault::Missing),
            (json!({"data": {}}), Fault::Missing),
            (json!({}), Fault::Missing),
            (json!(null), Fault::Null),
        ] {
            assert_eq!(identity(&said, &claims).unwrap_err().fault, expected, "{said}");
        }
    }

    #[test]
    fn optional_fields_may_be_missing_null_or_blank() {
        for value in [json!(null), json!(""), json!("  ")] {
            assert_eq!(identity(&with("email", value.clone()), &claims()).unwrap().email, None);
            assert_eq!(identity(&with("name", value.clone()), &claims()).unwrap().name, None);
            assert_eq!(identity(&with("groups", value), &claims()).unwrap().roles, Vec::<String>::new());
        }
        let bare = identity(&json!({"sub": 1, "user": {"name": "ada"}}), &claims()).unwrap();
        assert_eq!((bare.email, bare.name, bare.roles), (None, None, Vec::new()));
    }

    #[test]
    fn an_empty_username_pointer_means_the_id() {
        let claims = config::Claims { username: String::new(), ..claims() };
        assert_eq!(identity(&json!({"sub": 7}), &claims).unwrap().username, "7");
    }

    #[test]
    fn roles_are_a_list_or_words() {
        for (value, expected) in
            [(json!(["a", " b c ", ""]), vec!["a", "b c"]), (json!("a,b  c\td, "), vec!["a", "b", "c", "d"]), (json!([]), vec![])]
        {
            assert_eq!(identity(&with("groups", value), &claims()).unwrap().roles, expected);
        }
    }

    #[test]
    fn whoever_is_not_said_to_be_active_is_disabled_where_that_is_asked_for() {
        let asked = config::Claims { active: "/active".to_owned(), ..claims() };
        for (value, expected) in [
            (json!(true), true),
            (json!("True"), true),
            (json!(" active "), true),
            (json!(1), true),
            (json!("1"), true),
            (json!(false), false),
            (json!("false"), false),
            (json!("suspended"), false),
            (json!(""), false),
            (json!(0), false),
            (json!(0.0), false),
            (json!(null), false),
        ] {
            let said = with("active", value.clone());
            assert!(identity(&said, &claims()).is_ok(), "nobody asked");
            let outcome = identity(&said, &asked).map_err(Refusal::from);
            assert_eq!(outcome.is_ok(), expected, "{value}");
            if let Err(refusal) = outcome {
                assert_eq!(refusal.kind, RefusalKind::UserNotAllowed);
                assert_eq!(refusal.whom.unwrap().identity, "42");
                assert!(refusal.detail.contains("claim active at /active says that the person is disabled"), "{}", refusal.detail);
            }
        }
        let error = identity(&with("other", json!(1)), &asked).unwrap_err();
        assert_eq!(error.fault, Fault::Inactive, "missing");
        let error = Refusal::from(identity(&with("active", json!([true])), &asked).unwrap_err());
        assert_eq!(error.kind, RefusalKind::Misconfigured, "{error}");
    }

    #[test]
    fn a_session_id_is_text_or_a_number_and_keeps_nobody_out() {
        for (value, expected) in [(json!("s-1"), Some("s-1")), (json!(7), Some("7")), (json!(null), None), (json!([1]), None)] {
            assert_eq!(sid(&with("sid", value.clone()), &claims()).as_deref(), expected, "{value}");
        }
        assert_eq!(sid(&with("sid", json!("s")), &config::Claims { sid: String::new(), ..claims() }), None);
        assert_eq!(subject(&json!({"sub": "a", "uid": 7}), "/uid").as_deref(), Some("7"));
        assert_eq!(subject(&json!({"sub": "a"}), "/uid").as_deref(), Some("a"));
        assert_eq!(subject(&json!({"sid": "a"}), "/sub"), None);
    }

    #[test]
    fn only_an_explicit_no_makes_an_address_untrusted() {
        for (value, trusted) in [
            (json!(false), false),
            (json!("False"), false),
            (json!(true), true),
            (json!("true"), true),
            (json!(null), true),
            (json!(0), true),
        ] {
            assert_eq!(identity(&with("email_verified", value.clone()), &claims()).unwrap().email_trusted, trusted, "{value}");
        }
        let unused = config::Claims { email_verified: String::new(), ..claims() };
        assert!(identity(&with("email_verified", json!(false)), &unused).unwrap().email_trusted);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = prop_oneof![Just("sub".to_owned()), Just("user".to_owned()), Just("name".to_owned()), any::<String>()];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_answer_and_no_pointer_panics(said in any_json(), id in any::<String>(), username in any::<String>()) {
            for claims in [claims(), config::Claims { id: id.clone(), username: username.clone(), ..claims() }] {
                if let Ok(found) = identity(&said, &claims) {
                    prop_assert!(!found.id.trim().is_empty() && found.id.len() <= LONGEST);
                    prop_assert!(!found.id.chars().any(char::is_control));
                }
            }
        }
    }
}
