//! Where claims stand in an answer, when they are not where the configuration looks: fields of likely names, as
//! lines for `[identity.claims]`. Names of fields are shown, values never.

use serde_json::{Map, Value};

use crate::config::Claims;

/// How deep fields are looked for.
const DEEPEST: usize = 4;
/// Fields that are listed at most.
const MOST: usize = 20;

/// What the claims are called in the wild, likeliest first.
const NAMES: [(&str, &[&str]); 5] = [
    ("id", &["sub", "id", "user_id", "userId", "uid", "uuid", "_id", "oid", "pk"]),
    ("username", &["preferred_username", "username", "user_name", "userName", "login", "nickname", "handle", "samaccountname", "upn"]),
    ("email", &["email", "mail", "email_address", "emailAddress", "e_mail"]),
    ("name", &["name", "display_name", "displayName", "full_name", "fullName", "cn"]),
    ("roles", &["groups", "roles", "memberOf"]),
];

/// Lines for every claim that is not where `claims` looks and that stands elsewhere.
pub(super) fn suggestions(said: &Value, claims: &Claims) -> Vec<String> {
    let wanted =
        [("id", &claims.id), ("username", &claims.username), ("email", &claims.email), ("name", &claims.name), ("roles", &claims.roles)];
    let missing = wanted.into_iter().filter(|(claim, pointer)| {
        // An empty one says that the claim is not wanted, but for the id.
        let there = said.pointer(pointer).is_some_and(|value| usable(claim, value));
        !there && (!pointer.is_empty() || *claim == "id")
    });
    missing.filter_map(|(claim, _)| suggestion(said, claim)).collect()
}

/// The line for one claim: `id = "/user/id"`.
pub(super) fn suggestion(said: &Value, claim: &str) -> Option<String> {
    let (_, names) = NAMES.iter().find(|(name, _)| *name == claim)?;
    let mut found = Vec::new();
    walk(said, &mut String::new(), 0, &mut |pointer, name, value| {
        if let Some(rank) = names.iter().position(|likely| likely.eq_ignore_ascii_case(name))
            && usable(claim, value)
        {
            found.push((pointer.matches('/').count(), rank, pointer.to_owned()));
        }
    });
    found.sort();
    found.into_iter().next().map(|(_, _, pointer)| format!("{claim} = \"{pointer}\""))
}

/// The fields of an answer, as pointers.
pub(super) fn fields(said: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    walk(said, &mut String::new(), 0, &mut |pointer, _, value| {
        if !value.is_object() && fields.len() < MOST {
            fields.push(pointer.to_owned());
        }
    });
    fields
}

/// Whether a value has the type that the claim wants.
fn usable(claim: &str, value: &Value) -> bool {
    match claim {
        "id" => value.is_string() || value.is_i64() || value.is_u64(),
        "roles" => value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        _ => value.as_str().is_some_and(|text| !text.trim().is_empty()),
    }
}

fn walk(value: &Value, pointer: &mut String, depth: usize, visit: &mut impl FnMut(&str, &str, &Value)) {
    let Value::Object(members) = value else { return };
    if depth == DEEPEST {
        return;
    }
    for (name, member) in named(members) {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        visit(pointer, name, member);
        walk(member, pointer, depth + 1, visit);
        pointer.truncate(length);
    }
}

/// Members whose names are names: a map may be keyed by what belongs to a person.
fn named(members: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let sound = |name: &str| {
        let url = name.starts_with("http://") || name.starts_with("https://");
        let plain = name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let bytes = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:~".contains(&b));
        bytes && name.len() <= 80 && (url || plain) && name.bytes().filter(u8::is_ascii_digit).count() <= 2
    };
    members.iter().filter(move |(name, _)| sound(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Claims {
        Claims {
            id: "/sub".into(),
            username: "/preferred_username".into(),
            email: "/email".into(),
            email_verified: "/email_verified".into(),
            name: "/name".into(),
            roles: "/groups".into(),
            sid: "/sid".into(),
            active: String::new(),
            avatar: "/picture".into(),
        }
    }

    #[test]
    fn likely_fields_are_found_wherever_they_stand() {
        let said = json!({"data": {"user": {"id": 42, "login": "ada", "mail": "ada@example.com", "full_name": "Ada", "roles": ["a"]}}});
        let lines = suggestions(&said, &claims());
        assert_eq!(
            lines,
            [
                "id = \"/data/user/id\"",
                "username = \"/data/user/login\"",
                "email = \"/data/user/mail\"",
                "name = \"/data/user/full_name\"",
                "roles = \"/data/user/roles\""
            ]
        );
        assert!(!lines.join(" ").contains("ada@"));
    }

    #[test]
    fn what_is_in_place_is_left_alone() {
        let said = json!({"sub": "42", "username": "ada", "email": "ada@example.com", "name": "Ada", "groups": "a"});
        assert_eq!(suggestions(&said, &claims()), ["username = \"/username\""]);
        assert!(suggestions(&json!({"answer": 42}), &claims()).is_empty());
        assert_eq!(suggestions(&json!({"id": {"value": 1}, "uid": "x"}), &claims()), ["id = \"/uid\""], "of a type that can be used");
    }

    #[test]
    fn the_nearest_and_likeliest_wins() {
        let said = json!({"account": {"id": 1}, "uid": 2, "id": 3});
        assert_eq!(suggestion(&said, "id").as_deref(), Some("id = \"/id\""));
    }

    #[test]
    fn names_that_may_be_somebody_s_are_not_shown() {
        let said = json!({"ada@example.com": {"id": 1}, "4915112345678": 1, "plain": true, "https://app.example.com/roles": ["a"]});
        assert_eq!(fields(&said), ["/https:~1~1app.example.com~1roles", "/plain"]);
        assert_eq!(suggestion(&said, "id"), None);
    }
}
