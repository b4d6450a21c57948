//! What a client says in a WebSocket, as far as chat sessions go: the methods `login` with a login token, and `logout`,
//! of DDP, Meteor's protocol. A message is one JSON object, or a JSON array of them as texts where `SockJS` carries it.
//!
//! It is read as Meteor reads it: the last of several equal keys counts, and letters may be written as escapes.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

/// Meteor's type escape (EJSON): what stands in it is taken for itself.
const ESCAPE: &[u8] = b"$escape";
/// A login token that none is: the workspace's have 43 characters.
const NOBODYS: &str = "ended";
/// How deep such escapes, and arrays where a text should be, are followed.
const DEPTH: usize = 4;

/// A call that concerns chat sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `login` with a login token.
    Login(Resume),
    /// `logout`
    Logout,
}

/// A `login` with a login token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    /// The login token.
    pub(crate) token: String,
    /// The call's id, for the answer to it.
    id: String,
    /// `SockJS` carries it.
    framed: bool,
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resume").field("id", &self.id).field("framed", &self.framed).finish_non_exhaustive()
    }
}

impl Resume {
    /// The call's id.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The same login with a token that is nobody's, for the workspace to refuse in its own words.
    pub(crate) fn with_no_token(&self) -> String {
        json!({ "msg": "method", "method": "login", "params": [{ "resume": NOBODYS }], "id": self.id }).to_string()
    }

    /// Meteor's answer to a login token that has ended, as text messages: the client forgets the token then, and asks
    /// for a new one. A client that is cut off without it would come back with the same token for ever.
    pub(crate) fn refused(&self) -> Vec<String> {
        let reason = "You've been logged out by the server. Please log in again.";
        let error = json!({
            "isClientSafe": true, "error": 403, "reason": reason, "message": format!("{reason} [403]"), "errorType": "Meteor.Error",
        });
        let result = json!({ "msg": "result", "id": self.id, "error": error }).to_string();
        let updated = json!({ "msg": "updated", "methods": [self.id] }).to_string();
        if self.framed { vec![format!("a{}", json!([result, updated]))] } else { vec![result, updated] }
    }
}

/// Whether there may be such a call in what a client says.
pub(crate) fn may_call(message: &[u8]) -> bool {
    memmem::find(message, b"\"log").is_some() || memmem::find(message, b"\\u").is_some()
}

/// Tells of the calls in a message, in their order.
pub(crate) fn calls(message: &[u8], mut tell: impl FnMut(Call)) {
    // Nearly every message is something else. The words cannot be written otherwise than so, or with escapes.
    if !may_call(message) {
        return;
    }
    let text = String::from_utf8_lossy(message);
    match text.trim_start().as_bytes().first() {
        Some(b'{') => call(&text, false, &mut tell),
        Some(b'[' | b'"') => unframe(&text, |message| call(message, true, &mut tell)),
        _ => {}
    }
}

/// The messages that `SockJS` carries in one of WebSocket's, or in a body: a JSON array of texts, or one text.
fn unframe(text: &str, mut tell: impl FnMut(&str)) {
    for message in unframed(text) {
        tell(&message);
    }
}

/// The same, all at once.
pub(crate) fn unframed(text: &str) -> Vec<String> {
    if text.trim_start().starts_with('"') {
        return as_text(text, DEPTH).into_iter().collect();
    }
    let mut messages = Vec::new();
    // Of what is no array there is none.
    let _ = array(text, |message| messages.extend(as_text(message.get(), DEPTH)));
    messages
}

/// What `JSON.parse`, which reads each of them, takes a value for: an array for its members with commas in between.
fn as_text(value: &str, depth: usize) -> Option<String> {
    match value.trim_start().as_bytes().first()? {
        b'"' => letters(value).map(|letters| String::from_utf8_lossy(&letters).into_owned()),
        b'[' if depth > 0 => {
            let mut members = Vec::new();
            array(value, |member| members.push(as_text(member.get(), depth - 1).unwrap_or_default()))?;
            Some(members.join(","))
        }
        b'n' => Some(String::new()),
        b'{' => Some("[object Object]".to_owned()),
        _ => Some(value.trim().to_owned()),
    }
}

fn call(text: &str, framed: bool, tell: &mut impl FnMut(Call)) {
    let (mut kind, mut method, mut id, mut params) = (None, None, None, None);
    let whole = object(text, |key, value| match key {
        b"msg" => kind = Some(value),
        b"method" => method = Some(value),
        b"id" => id = Some(value),
        b"params" => params = Some(value),
        _ => {}
    });
    let text_of = |value: Option<&RawValue>| value.and_then(|value| letters(value.get())).map(Cow::into_owned).unwrap_or_default();
    if whole.is_none() || text_of(kind) != b"method" {
        return;
    }
    match text_of(method).as_slice() {
        b"logout" => tell(Call::Logout),
        b"login" => {
            let id = String::from_utf8_lossy(&text_of(id)).into_owned();
            let mut tokens = Vec::new();
            if let Some(params) = params {
                array(params.get(), |param| resume(param.get(), DEPTH, &mut tokens));
            }
            for token in tokens {
                tell(Call::Login(Resume { token, id: id.clone(), framed }));
            }
        }
        _ => {}
    }
}

/// The login token in one of a login's parameters.
fn resume(param: &str, depth: usize, tokens: &mut Vec<String>) {
    let (mut token, mut escaped) = (None, None);
    object(param, |key, value| match key {
        b"resume" => token = Some(value),
        ESCAPE => escaped = Some(value),
        _ => {}
    });
    tokens.extend(token.and_then(|token| letters(token.get())).map(|token| String::from_utf8_lossy(&token).into_owned()));
    if let (Some(escaped), true) = (escaped, depth > 0) {
        resume(escaped.get(), depth - 1, tokens);
    }
}

/// The letters of a JSON text; `None` for another value. Half of a surrogate pair, which `JSON.parse` lets through, is
/// let through as well.
fn letters(text: &str) -> Option<Cow<'_, [u8]>> {
    read(text, Letters)
}

/// Goes through a JSON object. Values are not looked into, so that they may be of any depth and size.
fn object<'t>(text: &'t str, each: impl FnMut(&[u8], &'t RawValue)) -> Option<()> {
    read(text, Object(each))
}

/// Goes through a JSON array.
fn array<'t>(text: &'t str, each: impl FnMut(&'t RawValue)) -> Option<()> {
    read(text, Array(each))
}

fn read<'t, S: DeserializeSeed<'t>>(text: &'t str, seed: S) -> Option<S::Value> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

struct Letters;

impl<'t> DeserializeSeed<'t> for Letters {
    type Value = Cow<'t, [u8]>;

    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_bytes(self)
    }
}

impl<'t> Visitor<'t> for Letters {
    type Value = Cow<'t, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_bytes<E>(self, letters: &'t [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(letters))
    }

    fn visit_bytes<E>(self, letters: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(letters.to_vec()))
    }
}

struct Object<F>(F);

impl<'t, F: FnMut(&[u8], &'t RawValue)> DeserializeSeed<'t> for Object<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'t, F: FnMut(&[u8], &'t RawValue)> Visitor<'t> for Object<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Letters)? {
            (self.0)(&key, map.next_value()?);
        }
        Ok(())
    }
}

struct Array<F>(F);

impl<'t, F: FnMut(&'t RawValue)> DeserializeSeed<'t> for Array<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'t>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'t, F: FnMut(&'t RawValue)> Visitor<'t> for Array<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'t>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element()? {
            (self.0)(element);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn seen(message: &str) -> Vec<String> {
        let mut seen = Vec::new();
        calls(message.as_bytes(), |call| {
            seen.push(match call {
                Call::Login(Resume { token, id, framed }) => format!("{token}/{id}{}", if framed { "/framed" } else { "" }),
                Call::Logout => "logout".to_owned(),
            });
        });
        seen
    }

    #[test]
    fn logins_and_logouts_are_found_as_meteor_reads_them() {
        for (message, expected) in [
            (r#"{"msg":"method","method":"login","params":[{"resume":"t"}],"id":"1"}"#, &["t/1"][..]),
            // What the packages on npm write.
            (r#"{"msg":"method","id":"7","method":"login","params":[{"resume":"a-b_C"}]}"#, &["a-b_C/7"]),
            (
                r#" { "id" : "x" , "params" : [ { "other" : {"resume":"no"} , "resume" : "t" } ] , "method" : "login" , "msg" : "method" } "#,
                &["t/x"],
            ),
            (r#"{"msg":"method","method":"logout","params":[],"id":"2"}"#, &["logout"]),
            (r#"{"msg":"method","method":"logout"}"#, &["logout"]),
            (r#"{"msg":"method","method":"login","params":[{"a":1},{"resume":"t"},7,{"resume":"u"}],"id":"1"}"#, &["t/1", "u/1"]),
            // The last of equal keys counts; letters may be escapes; any value may stand beside.
            (
                r#"{"msg":"sub","msg":"method","method":"x","method":"login","params":[],"params":[{"resume":"x","resume":"t"}],"id":"1"}"#,
                &["t/1"],
            ),
            (r#"{"msg":"method","method":"\u006cogin","params":[{"r\u0065sume":"\u0074"}],"id":"1"}"#, &["t/1"]),
            (r#"{"msg":"method","method":"login","params":[{"resume":"t","x":1e999}],"id":"1","\ud800":"\udfff"}"#, &["t/1"]),
            (r#"{"msg":"method","method":"login","params":[{"$escape":{"resume":"t"}}],"id":"1"}"#, &["t/1"]),
            // SockJS.
            (r#"["{\"msg\":\"method\",\"method\":\"login\",\"params\":[{\"resume\":\"t\"}],\"id\":\"1\"}"]"#, &["t/1/framed"]),
            (r#""{\"msg\":\"method\",\"method\":\"logout\"}""#, &["logout"]),
            (
                r#"["{\"msg\":\"ping\"}","{\"msg\":\"method\",\"method\":\"login\",\"params\":[{\"resume\":\"t\"}],\"id\":\"1\"}","no","{\"msg\":\"method\",\"method\":\"\\u006cogout\"}"]"#,
                &["t/1/framed", "logout"],
            ),
            (r#"["\u007b\"msg\":\"method\",\"method\":\"logout\"}"]"#, &["logout"]),
            // What JavaScript makes of an array where a text should be.
            (r#"[["{\"msg\":\"method\",\"method\":\"logout\"}"]]"#, &["logout"]),
            (r#"[["{\"msg\":\"method\"",["\"method\":\"logout\""],"\"x\":[1",null,2,"3]}"]]"#, &[]),
            (r#"[["{\"msg\":\"method\"",["\"method\":\"logout\"","\"x\":\"",{}],2,"3\"}"]]"#, &["logout"]),
            // None.
            (r#"{"msg":"method","method":"login","params":[{"user":{"username":"a"},"password":"resume"}],"id":"1"}"#, &[]),
            (r#"{"msg":"method","method":"login","params":[{"resume":7},["t"],"t"],"id":"1"}"#, &[]),
            (r#"{"msg":"method","method":"login","params":{"resume":"t"},"id":"1"}"#, &[]),
            (r#"{"msg":"method","method":"Login","params":[{"resume":"t"}],"id":"1"}"#, &[]),
            (r#"{"msg":"sub","method":"login","params":[{"resume":"t"}],"id":"1"}"#, &[]),
            (r#"{"msg":"method","method":"sendMessage","params":[{"msg":"{\"method\":\"login\"}"}],"id":"1"}"#, &[]),
            (r#"{"msg":"method","method":"login","params":[{"resume":"t"}],"id":"1"} x"#, &[]),
            (r#"{"msg":"method","method":"login","params":[{"resume":"t"}],"id":"1""#, &[]),
            (r#"[{"msg":"method","method":"logout"}]"#, &[]),
            ("\"log", &[]),
            ("", &[]),
        ] {
            assert_eq!(seen(message), expected, "{message}");
        }
        let deep = format!(
            r#"{{"msg":"method","x":{}1{},"method":"login","params":[{{"resume":"t"}}],"id":"1"}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        assert_eq!(seen(&deep), ["t/1"]);
        let mut bytes = br#"{"msg":"method","method":"logout","x":""#.to_vec();
        bytes.extend(b"\xff\xfe\"}");
        let mut found = 0;
        calls(&bytes, |_| found += 1);
        assert_eq!(found, 1, "what is not UTF-8 is read as servers do");
    }

    #[test]
    fn a_refusal_is_meteors() {
        for (framed, texts) in [(false, 2), (true, 1)] {
            let refused = Resume { token: "t".into(), id: "a\"b".into(), framed }.refused();
            assert_eq!(refused.len(), texts);
            let messages: Vec<Value> = if framed {
                let list: Vec<String> = serde_json::from_str(refused[0].strip_prefix('a').unwrap()).unwrap();
                list.iter().map(|message| serde_json::from_str(message).unwrap()).collect()
            } else {
                refused.iter().map(|message| serde_json::from_str(message).unwrap()).collect()
            };
            let result = &messages[0];
            assert_eq!((&result["msg"], &result["id"], &result["error"]["error"]), (&json!("result"), &json!("a\"b"), &json!(403)));
            assert_eq!(messages[1], json!({ "msg": "updated", "methods": ["a\"b"] }));
        }
    }
}
