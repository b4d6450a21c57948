//! The workspace's public settings as the web client gets to see them through the dev proxy: over REST, in
//! the answer of a Meteor method called over REST, and over its socket. The client compares and obeys them
//! wherever it is served from, so that those that name the workspace's own address have to name ours.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::config::Origin;

/// Bits of names of all settings that are replaced: text without any of them is not looked into.
const TRACES: [&str; 4] = ["Accounts_iframe_", "Accounts_Iframe_", "Site_Url", "Iframe_Integration_"];

/// What the client sees instead of the workspace's own values.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    values: Vec<(&'static str, Value)>,
}

/// A text after the settings in it were looked for.
pub(super) struct Seen<'a> {
    pub(super) text: Cow<'a, str>,
    /// The workspace's own `Site_Url`, where it was among them.
    pub(super) site: Option<String>,
}

impl Settings {
    /// The iframe login at our own pages, under `here` and `prefix`; messages exchanged with `apps`, if
    /// there are any.
    pub(super) fn new(here: &str, prefix: &str, apps: &[Origin]) -> Self {
        let mut values = vec![
            ("Accounts_iframe_enabled", json!(true)),
            ("Accounts_iframe_url", json!(format!("{here}{prefix}login"))),
            ("Accounts_Iframe_api_url", json!(format!("{here}{prefix}token"))),
            ("Accounts_Iframe_api_method", json!("POST")),
            ("Site_Url", json!(here)),
        ];
        if let Some(first) = apps.first() {
            let all: Vec<&str> = apps.iter().map(Origin::as_str).collect();
            values.extend([
                ("Iframe_Integration_send_enable", json!(true)),
                ("Iframe_Integration_send_target_origin", json!(first.as_str())),
                ("Iframe_Integration_receive_enable", json!(true)),
                ("Iframe_Integration_receive_origin", json!(all.join(","))),
            ]);
        }
        Self { values }
    }

    /// A JSON text, or a SockJS frame (`a["…"]`), with the settings in it replaced; anything else as it is.
    pub(super) fn replaced<'a>(&self, text: &'a str) -> Seen<'a> {
        let unchanged = Seen { text: Cow::Borrowed(text), site: None };
        if !TRACES.iter().any(|trace| text.contains(trace)) {
            return unchanged;
        }
        let (frame, document) = text.strip_prefix('a').filter(|rest| rest.starts_with('[')).map_or(("", text), |rest| ("a", rest));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://chat.localhost:8443";

    fn settings() -> Settings {
        Settings::new(HERE, "/_gantry/", &[])
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
    fn host_apps_are_named_without_blanks() {
        let apps = ["http://localhost:3000".parse().unwrap(), "http://app.localhost:4000".parse().unwrap()];
        let settings = Settings::new(HERE, "/_gantry/", &apps);
        let text = theirs().to_string();
        let value: Value = serde_json::from_str(&settings.replaced(&text).text).unwrap();
        assert_eq!(value[6]["value"], "http://localhost:3000,http://app.localhost:4000");
    }
}
