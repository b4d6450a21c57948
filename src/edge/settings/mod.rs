//! The workspace's public settings as a web client gets to see them through us: over REST, in the answer of a Meteor
//! method called over REST, and over its socket. The client compares and obeys them wherever it is served from.
//!
//! `gantry dev` shows its own address in them, and a browser in the native login sees the iframe login switched off.

pub(in crate::edge) mod edit;
pub(in crate::edge) mod socket;

use std::borrow::Cow;

use serde_json::{Value, json};

/// The Meteor method with which the client reads them: all, or those that have changed since.
const METHOD: &str = "public-settings/get";

/// What the client sees instead of the workspace's own values.
#[derive(Clone, Debug)]
pub(in crate::edge) struct Settings {
    values: Vec<(&'static str, Value)>,
}

/// A text after the settings in it were looked for.
pub(in crate::edge) struct Seen<'a> {
    pub(in crate::edge) text: Cow<'a, str>,
    /// The workspace's own `Site_Url`, where it was among them.
    pub(in crate::edge) site: Option<String>,
}

impl Settings {
    /// These values for these settings.
    pub(in crate::edge) fn new(values: Vec<(&'static str, Value)>) -> Self {
        Self { values }
    }

    /// A JSON text, or a SockJS frame (`a["…"]`), with the settings in it replaced; anything else as it is.
    pub(in crate::edge) fn replaced<'a>(&self, text: &'a str) -> Seen<'a> {
        let unchanged = Seen { text: Cow::Borrowed(text), site: None };
        if !self.values.iter().any(|(id, _)| text.contains(id)) {
            return unchanged;
        }
        let (frame, document) = unframed(text);
        let Ok(mut value) = serde_json::from_str::<Value>(document) else { return unchanged };
        let mut site = None;
        if !self.walk(&mut value, &mut site) {
            return unchanged;
        }
        Seen { text: Cow::Owned(format!("{frame}{value}")), site }
    }

    /// Whether anything was replaced.
    fn walk(&self, value: &mut Value, site: &mut Option<String>) -> bool {
        match value {
            Value::Array(items) => items.iter_mut().fold(false, |any, item| self.walk(item, site) | any),
            // What an administrator's own page listens to, in which they see and save the real values.
            Value::Object(fields) if fields.get("eventName").is_some_and(|name| name == "private-settings-changed") => false,
            Value::Object(fields) => {
                let id = fields.get("_id").and_then(Value::as_str);
                let ours = id.and_then(|id| self.values.iter().find(|(known, _)| *known == id));
                // What an administrator edits comes with its default, and stays the workspace's own: it might be saved.
                let public = !fields.contains_key("packageValue");
                if let (Some((id, ours)), true, Some(theirs)) = (ours, public, fields.get_mut("value")) {
                    if *id == "Site_Url" {
                        *site = theirs.as_str().map(str::to_owned);
                    }
                    theirs.clone_from(ours);
                    return true;
                }
                fields.values_mut().fold(false, |any, field| self.walk(field, site) | any)
            }
            // A DDP message as text within JSON: how a method's answer comes over REST, and in SockJS frames.
            Value::String(text) if text.starts_with(['{', '[']) => {
                let seen = self.replaced(text);
                if let Some(url) = seen.site {
                    *site = Some(url);
                }
                match seen.text {
                    Cow::Owned(new) => {
                        *text = new;
                        true
                    }
                    Cow::Borrowed(_) => false,
                }
            }
            _ => false,
        }
    }

    /// The answer to a call that asked for what has changed only, with our values beside: a client that remembers the
    /// workspace's from another day would keep those. `asked` says whether the call with this id was one. `None` where
    /// nothing is missing.
    pub(in crate::edge) fn completed(&self, text: &str, asked: &mut impl FnMut(&str) -> bool) -> Option<String> {
        let (frame, document) = unframed(text);
        let mut value = serde_json::from_str::<Value>(document).ok()?;
        self.complete(&mut value, asked).then(|| format!("{frame}{value}"))
    }

    fn complete(&self, value: &mut Value, asked: &mut impl FnMut(&str) -> bool) -> bool {
        match value {
            Value::Array(items) => items.iter_mut().fold(false, |any, item| self.complete(item, asked) | any),
            Value::String(text) => match self.completed(text, asked) {
                Some(new) => {
                    *text = new;
                    true
                }
                None => false,
            },
            Value::Object(fields) if fields.get("msg").is_some_and(|msg| msg == "result") => {
                let answers = fields.get("id").and_then(Value::as_str).is_some_and(asked);
                let Some(list) = fields.get_mut("result").and_then(|result| result.get_mut("update")).and_then(Value::as_array_mut) else {
                    return false;
                };
                let missing = |id: &str| !list.iter().any(|setting| setting["_id"] == id);
                let absent: Vec<_> = self.values.iter().filter(|(id, _)| answers && missing(id)).collect();
                // From a time before everything, so that the client's idea of how much it knows stays as it is.
                list.extend(absent.iter().map(|(id, value)| json!({ "_id": id, "value": value, "_updatedAt": { "$date": 0 } })));
                !absent.is_empty()
            }
            // How the answer to a Meteor method comes over REST.
            Value::Object(fields) => fields.get_mut("message").is_some_and(|message| self.complete(message, asked)),
            _ => false,
        }
    }
}

/// The ids of the calls in a client's message that ask for the settings. It is one DDP message, or a list of them as
/// `SockJS` sends it.
pub(in crate::edge) fn calls(text: &str) -> Vec<String> {
    if !text.contains(METHOD) {
        return Vec::new();
    }
    let one = |message: &Value| {
        let asks = message.get("method").is_some_and(|method| method == METHOD);
        asks.then(|| message.get("id")?.as_str().map(str::to_owned)).flatten()
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(list)) => {
            let inner = list.iter().filter_map(Value::as_str).filter_map(|text| serde_json::from_str::<Value>(text).ok());
            inner.filter_map(|message| one(&message)).collect()
        }
        Ok(message) => one(&message).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}

/// The marker of a `SockJS` frame with messages (`a["…"]`), and the JSON behind it.
fn unframed(text: &str) -> (&'static str, &str) {
    text.strip_prefix('a').filter(|rest| rest.starts_with('[')).map_or(("", text), |rest| ("a", rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://chat.localhost:8443";

    fn settings() -> Settings {
        Settings::new(vec![
            ("Accounts_iframe_enabled", json!(true)),
            ("Accounts_iframe_url", json!(format!("{HERE}/_gantry/login"))),
            ("Accounts_Iframe_api_url", json!(format!("{HERE}/_gantry/token"))),
            ("Accounts_Iframe_api_method", json!("POST")),
            ("Site_Url", json!(HERE)),
        ])
    }

    fn theirs() -> Value {
        json!([
            { "_id": "Accounts_iframe_enabled", "value": false },
            { "_id": "Accounts_iframe_url", "value": "https://chat.example.com/_gantry/login" },
            { "_id": "Accounts_Iframe_api_url", "value": "" },
            { "_id": "Accounts_Iframe_api_method", "value": "GET" },
            { "_id": "Site_Url", "value": "https://chat.example.com/" },
            { "_id": "Site_Name", "value": "Site_Url" },
            { "_id": "Iframe_Integration_receive_origin", "value": "*" },
        ])
    }

    fn ours() -> Value {
        json!([
            { "_id": "Accounts_iframe_enabled", "value": true },
            { "_id": "Accounts_iframe_url", "value": "https://chat.localhost:8443/_gantry/login" },
            { "_id": "Accounts_Iframe_api_url", "value": "https://chat.localhost:8443/_gantry/token" },
            { "_id": "Accounts_Iframe_api_method", "value": "POST" },
            { "_id": "Site_Url", "value": HERE },
            { "_id": "Site_Name", "value": "Site_Url" },
            { "_id": "Iframe_Integration_receive_origin", "value": "*" },
        ])
    }

    #[test]
    fn settings_are_replaced_wherever_the_client_reads_them() {
        let wrap: [fn(Value) -> String; 5] = [
            |list| json!({ "settings": list, "success": true }).to_string(),
            |list| json!({ "msg": "result", "id": "1", "result": list }).to_string(),
            |list| json!({ "message": json!({ "msg": "result", "result": { "update": list } }).to_string(), "success": true }).to_string(),
            |list| format!("a{}", json!([json!({ "msg": "ping" }).to_string(), json!({ "msg": "result", "result": list }).to_string()])),
            |list| {
                json!({ "msg": "changed", "fields": { "eventName": "public-settings-changed", "args": ["updated", list[1]] } }).to_string()
            },
        ];
        for wrap in wrap {
            let (before, after) = (wrap(theirs()), wrap(ours()));
            let seen = settings().replaced(&before);
            assert_eq!(seen.text, after);
        }
        let text = theirs().to_string();
        assert_eq!(settings().replaced(&text).site.as_deref(), Some("https://chat.example.com/"));
    }

    #[test]
    fn all_else_stays_byte_for_byte() {
        for text in [
            "a[\"{\\\"msg\\\":\\\"ping\\\"}\"]",
            "o",
            "h",
            r#"{"msg": "Site_Url is what I talk about"}"#,
            "{\"broken\": Site_Url",
            r#"{"_id": "Site_Url", "value": "x",  "packageValue": ""}"#,
            r#"{"_id":  "Site_Url"}"#,
            "",
        ] {
            let settings = settings();
            let seen = settings.replaced(text);
            assert!(matches!(seen.text, Cow::Borrowed(_)) && seen.text == text, "{text}");
        }
    }

    #[test]
    fn an_administrator_is_told_the_real_values() {
        for text in [
            json!({ "msg": "changed", "fields": { "eventName": "private-settings-changed", "args": ["updated", theirs()[0]] } }),
            json!([{ "_id": "Accounts_iframe_enabled", "value": false, "packageValue": false }]),
        ] {
            let text = text.to_string();
            assert_eq!(settings().replaced(&text).text, text);
        }
    }

    fn native() -> Settings {
        Settings::new(vec![("Accounts_iframe_enabled", json!(false))])
    }

    #[test]
    fn what_has_not_changed_is_told_all_the_same_to_whoever_asked() {
        let ours = json!({ "_id": "Accounts_iframe_enabled", "value": false, "_updatedAt": { "$date": 0 } });
        let answer = |update: &Value| json!({ "msg": "result", "id": "7", "result": { "update": update, "remove": [] } });
        let wrap: [fn(Value) -> String; 4] = [
            |answer| answer.to_string(),
            |answer| format!("a{}", json!([answer.to_string()])),
            |answer| format!("a{}", json!([json!({ "msg": "ping" }).to_string(), answer.to_string()])),
            |answer| json!({ "message": answer.to_string(), "success": true }).to_string(),
        ];
        for wrap in wrap {
            for before in [json!([]), json!([{ "_id": "Site_Name", "value": "x" }])] {
                let mut after = before.clone();
                after.as_array_mut().unwrap().push(ours.clone());
                let text = wrap(answer(&before));
                assert_eq!(native().completed(&text, &mut |id| id == "7"), Some(wrap(answer(&after))));
                assert_eq!(native().completed(&text, &mut |id| id == "8"), None, "the answer to another call");
            }
            let known = json!([{ "_id": "Accounts_iframe_enabled", "value": false }]);
            assert_eq!(native().completed(&wrap(answer(&known)), &mut |_| true), None);
        }
        for text in ["", "o", "{}", "[]", "null", r#"{"msg":"result","id":"7","result":[]}"#, r#"{"msg":"result","id":"7","error":{}}"#] {
            assert_eq!(native().completed(text, &mut |_| true), None, "{text}");
        }
    }

    #[test]
    fn calls_for_the_settings_are_noticed() {
        let call = json!({ "msg": "method", "method": "public-settings/get", "params": [{ "$date": 1 }], "id": "7" }).to_string();
        let other = json!({ "msg": "method", "method": "sendMessage", "params": ["public-settings/get"], "id": "8" }).to_string();
        for (text, ids) in [
            (call.clone(), vec!["7"]),
            (other.clone(), vec![]),
            (json!([other, call]).to_string(), vec!["7"]),
            (json!(["public-settings/get", 1]).to_string(), vec![]),
            ("public-settings/get".to_owned(), vec![]),
            (json!({ "method": "public-settings/get", "id": 7 }).to_string(), vec![]),
        ] {
            assert_eq!(calls(&text), ids, "{text}");
        }
    }
}
