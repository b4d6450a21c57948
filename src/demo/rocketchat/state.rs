//! What a workspace knows: users, settings, messages, and a log of every request.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bytes::Bytes;
use hyper::HeaderMap;
use serde_json::Value;

use super::limiter::Limiter;
use super::meteor::{hash_token, random_id, random_token};
use super::options::Options;
use super::plan::Plan;
use super::roles::{self, Access};
use super::rooms::Room;
use super::settings;
use super::user::{Token, TokenKind, User, UserKind};
use crate::demo::events::now_ms;

/// One request that came in, secrets and all.
#[derive(Clone, Debug)]
pub struct Request {
    /// The endpoint as [`Workspace::calls`](super::Workspace::calls) counts it: `users.info`, `ddp:login`, `page`.
    pub endpoint: String,
    /// The method.
    pub method: String,
    /// Path and query, byte for byte.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What a workspace knows.
#[derive(Debug)]
pub struct State {
    /// How it is set up; the version may change under way.
    pub options: Options,
    /// Settings by id.
    pub settings: BTreeMap<String, Value>,
    /// Every request, oldest first.
    pub requests: Vec<Request>,
    /// Users signed in over an open socket: user ids, one per socket.
    pub online: Vec<String>,
    /// Uploaded files by `<id>/<name>`: media type and bytes.
    pub files: HashMap<String, (String, Bytes)>,
    /// Channels and teams.
    pub rooms: Vec<Room>,
    /// When a name, address or username was last changed: user id, field, moment.
    pub(super) profile_changes: HashMap<(String, &'static str), Instant>,
    /// When each setting was changed last, in milliseconds since 1970, and those that the sockets have to be told of.
    pub(super) settings_changed: BTreeMap<String, u64>,
    pub(super) announced: Vec<Value>,
    pub(super) messages: Vec<Value>,
    pub(super) limiter: Limiter,
    pub(super) plan: Plan,
    pub(super) access: Access,
    counts: HashMap<String, usize>,
    users: BTreeMap<String, User>,
    by_name: HashMap<String, String>,
    by_email: HashMap<String, String>,
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        let settings = settings::initial(&options);
        let started = now_ms();
        let mut state = Self {
            options,
            settings,
            requests: Vec::new(),
            online: Vec::new(),
            files: HashMap::new(),
            rooms: Vec::new(),
            profile_changes: HashMap::new(),
            settings_changed: BTreeMap::new(),
            announced: Vec::new(),
            messages: Vec::new(),
            limiter: Limiter::default(),
            plan: Plan::default(),
            access: Access::default(),
            counts: HashMap::new(),
            users: BTreeMap::new(),
            by_name: HashMap::new(),
            by_email: HashMap::new(),
        };
        state.settings_changed = state.settings.keys().map(|id| (id.clone(), started)).collect();
        let service = state.options.service.clone();
        state.insert(User {
            id: service.id,
            roles: if service.roles.is_empty() { vec![SERVICE_ROLE.into()] } else { service.roles },
            password: service.password,
            tokens: vec![Token {
                hash: hash_token(&service.token),
                kind: if service.personal {
                    TokenKind::Personal { bypass_two_factor: service.bypass_two_factor }
                } else {
                    TokenKind::Session { when: now_ms() }
                },
            }],
            ..User::new(&service.username)
        });
        if state.options.seeded_admin {
            state.insert(User { roles: vec!["admin".into()], name: "Harbour Master".into(), ..User::new("harbour.master") });
        }
        state
    }

    /// A user by `_id`.
    pub fn user_by_id(&self, id: &str) -> Option<&User> {
        self.users.get(id)
    }

    /// A user by username, in any case.
    pub fn user(&self, username: &str) -> Option<&User> {
        self.users.get(self.by_name.get(&username.to_lowercase())?)
    }

    /// A user by e-mail address, in any case.
    pub fn user_by_email(&self, address: &str) -> Option<&User> {
        self.users.get(self.by_email.get(&address.to_lowercase())?)
    }

    /// Every user, the service account included, by id.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// How often an endpoint was called.
    pub fn calls(&self, endpoint: &str) -> usize {
        self.counts.get(endpoint).copied().unwrap_or_default()
    }

    /// Whether this user has an open, signed-in socket.
    pub fn signed_in(&self, username: &str) -> bool {
        self.user(username).is_some_and(|user| self.online.contains(&user.id))
    }

    /// Whether somebody is in a channel or team, by both their names.
    pub fn is_in(&self, username: &str, room: &str) -> bool {
        let user = self.user(username).map(|user| user.id.as_str()).unwrap_or_default();
        self.rooms.iter().any(|known| known.name == room && known.members.contains(user))
    }

    pub(super) fn insert(&mut self, mut user: User) -> String {
        if user.id.is_empty() {
            user.id = random_id();
        }
        let id = user.id.clone();
        self.forget_names(&id);
        if let Some(name) = &user.username {
            self.by_name.insert(name.to_lowercase(), id.clone());
        }
        for email in &user.emails {
            self.by_email.insert(email.address.to_lowercase(), id.clone());
        }
        self.users.insert(id.clone(), user);
        id
    }

    /// Changes a user and keeps the indexes right.
    pub(super) fn change<R>(&mut self, id: &str, change: impl FnOnce(&mut User) -> R) -> Option<R> {
        let mut user = self.users.get(id)?.clone();
        let result = change(&mut user);
        self.insert(user);
        Some(result)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<User> {
        self.forget_names(id);
        self.users.remove(id)
    }

    fn forget_names(&mut self, id: &str) {
        if let Some(old) = self.users.get(id) {
            if let Some(name) = &old.username {
                self.by_name.remove(&name.to_lowercase());
            }
            for email in &old.emails {
                self.by_email.remove(&email.address.to_lowercase());
            }
        }
    }

    pub(super) fn log(&mut self, request: Request) {
        *self.counts.entry(request.endpoint.clone()).or_default() += 1;
        self.requests.push(request);
    }

    /// Whether a user has a permission, by its roles.
    pub(super) fn may(&self, user: &User, permission: &str) -> bool {
        user.roles.iter().any(|role| self.grants(role, permission))
    }

    /// Whether a role has a permission.
    pub(super) fn grants(&self, role: &str, permission: &str) -> bool {
        match (role, self.access.granted(permission)) {
            (SERVICE_ROLE, _) => self.options.service.permissions.iter().any(|p| p == permission),
            (role, Some(roles)) => roles.iter().any(|granted| granted == role),
            (role, None) => roles::from_the_start(role, permission),
        }
    }

    /// Adds a session token and trims the oldest sessions over the limit.
    pub(super) fn mint(&mut self, id: &str) -> Option<String> {
        let token = random_token();
        let hash = hash_token(&token);
        let limit = self.options.max_login_tokens;
        self.users.get_mut(id).map(|user| {
            user.tokens.push(Token { hash, kind: TokenKind::Session { when: now_ms() } });
            let mut surplus = user.sessions().saturating_sub(limit);
            user.tokens.retain(|token| {
                let trimmed = surplus > 0 && matches!(token.kind, TokenKind::Session { .. });
                surplus -= usize::from(trimmed);
                !trimmed
            });
            token
        })
    }

    /// Removes the tokens that `gone` picks.
    pub(super) fn revoke(&mut self, id: &str, mut gone: impl FnMut(&Token) -> bool) {
        if let Some(user) = self.users.get_mut(id) {
            user.tokens.retain(|token| !gone(token));
        }
    }

    /// Switches an account on or off; off clears every token.
    pub(super) fn set_active(&mut self, id: &str, active: bool) {
        if let Some(user) = self.users.get_mut(id) {
            user.inactive = !active;
            if !active {
                user.tokens.clear();
            }
        }
    }

    /// The user that owns this token.
    pub(super) fn owner(&self, hash: &str) -> Option<&User> {
        self.users.values().find(|user| user.token(hash).is_some())
    }

    /// Active users that need a seat.
    pub(super) fn seats_taken(&self) -> usize {
        self.users.values().filter(|u| !u.inactive && u.kind == UserKind::User && !u.roles.iter().any(|r| r == SERVICE_ROLE)).count()
    }

    /// Sets a setting; clients that listen are told.
    pub(super) fn set(&mut self, id: &str, value: Value) {
        self.settings_changed.insert(id.to_owned(), now_ms());
        self.announced.push(serde_json::json!({ "_id": id, "value": value }));
        self.settings.insert(id.to_owned(), value);
    }

    pub(super) fn setting(&self, id: &str) -> &Value {
        self.settings.get(id).unwrap_or(&Value::Null)
    }

    pub(super) fn setting_str(&self, id: &str) -> &str {
        self.setting(id).as_str().unwrap_or_default()
    }

    pub(super) fn setting_on(&self, id: &str) -> bool {
        self.setting(id).as_bool().unwrap_or_default()
    }
}

/// The role of the service account; its permissions are those of the options.
pub(super) const SERVICE_ROLE: &str = "gantry-service";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sessions_go_and_personal_tokens_stay() {
        let mut state = State::new(Options { max_login_tokens: 3, ..Options::default() });
        let personal = Token { hash: "pat".into(), kind: TokenKind::Personal { bypass_two_factor: true } };
        let id = state.insert(User { tokens: vec![personal], ..User::new("ada") });
        let minted: Vec<_> = (0..5).map(|_| state.mint(&id).unwrap()).collect();
        let user = state.user("ADA").unwrap();
        assert_eq!((user.tokens.len(), user.sessions()), (4, 3));
        let alive: Vec<_> = minted.iter().map(|token| user.token(&hash_token(token)).is_some()).collect();
        assert_eq!(alive, [false, false, true, true, true]);
    }

    #[test]
    fn a_renamed_user_is_found_by_the_new_name_only() {
        let mut state = State::new(Options::default());
        let id = state.insert(User::new("ada"));
        state.change(&id, |user| user.username = Some("lovelace".into()));
        assert!(state.user("ada").is_none() && state.user("Lovelace").is_some());
    }
}
