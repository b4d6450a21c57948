//! The workspace's settings: the public ones in one call, the rest one by one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::doctor::Finding;
use crate::rocketchat::{Client, Trouble};

/// Every setting that is looked at; those that matter most come first, since a limiter may end the reading.
const IDS: [&str; 19] = [
    "Accounts_iframe_url",
    "Accounts_Iframe_api_url",
    "Accounts_Iframe_api_method",
    "Accounts_iframe_enabled",
    "Accounts_AllowAnonymousRead",
    "Accounts_CustomFields",
    "Iframe_Integration_receive_enable",
    "Iframe_Integration_receive_origin",
    "Iframe_Integration_send_enable",
    "Iframe_Integration_send_target_origin",
    "Site_Url",
    "Force_SSL",
    "Iframe_Restrict_Access",
    "Iframe_X_Frame_Options",
    "API_Enable_Rate_Limiter",
    "Enable_CSP",
    "FileUpload_ProtectFiles",
    "Accounts_TwoFactorAuthentication_Enabled",
    "Show_Setup_Wizard",
];

/// The values that could be read, and why the others could not.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Settings {
    values: BTreeMap<String, Value>,
    troubles: BTreeMap<&'static str, Trouble>,
}

impl Settings {
    /// Reads all that can be read; `as_service` also those that are not public.
    pub(in crate::doctor) async fn read(client: &Client, as_service: bool) -> Self {
        let mut troubles = BTreeMap::new();
        let (mut values, public) = match client.public_settings(&IDS).await {
            Ok(values) => (values, Ok(())),
            Err(trouble) => (BTreeMap::new(), Err(trouble)),
        };
        let mut given_up = match public {
            // A workspace that fails here is not asked twenty times more.
            Err(trouble @ Trouble::Unavailable(_)) => Some(trouble),
            _ if as_service => None,
            _ => Some(Trouble::NotLoggedIn),
        };
        for id in IDS {
            if values.contains_key(id) {
                continue;
            }
            let answer = match &given_up {
                Some(trouble) => Err(trouble.clone()),
                None => client.setting(id).await,
            };
            match answer {
                Ok(value) => drop(values.insert(id.to_owned(), value)),
                Err(trouble) => {
                    if !matches!(trouble, Trouble::Absent | Trouble::Refused(_)) {
                        given_up = Some(trouble.clone());
                    }
                    troubles.insert(id, trouble);
                }
            }
        }
        Self { values, troubles }
    }

    /// Nothing could be read.
    pub(super) fn unknown(trouble: &Trouble) -> Self {
        Self { values: BTreeMap::new(), troubles: IDS.iter().map(|id| (*id, trouble.clone())).collect() }
    }

    /// A setting's value.
    pub(in crate::doctor) fn get(&self, id: &str) -> Option<&Value> {
        self.values.get(id)
    }

    /// A text.
    pub(super) fn text(&self, id: &str) -> Option<&str> {
        self.get(id).map(|value| value.as_str().unwrap_or_default())
    }

    /// A switch.
    pub(super) fn on(&self, id: &str) -> Option<bool> {
        self.get(id).map(|value| value.as_bool().unwrap_or_default())
    }

    /// The finding for a check whose setting could not be read.
    pub(super) fn skip(&self, check: &'static str, id: &str) -> Finding {
        let why = match self.troubles.get(id) {
            Some(Trouble::Forbidden) => format!("{id} is not public: reading it needs the permission view-privileged-setting"),
            Some(Trouble::NotLoggedIn) => "the service account cannot be used".to_owned(),
            Some(Trouble::Absent) | None => format!("this Rocket.Chat does not show {id}"),
            Some(Trouble::Unavailable(why)) => why.clone(),
            Some(trouble) => trouble.to_string(),
        };
        Finding::skipped(check, why)
    }

    #[cfg(test)]
    pub(in crate::doctor) fn of(values: &[(&str, Value)]) -> Self {
        Self { values: values.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect(), troubles: BTreeMap::new() }
    }
}
