//! How a stand-in workspace is set up: its version, environment, settings and service account.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::demo::events::Feed;

/// A Rocket.Chat version. What changes with it is in the methods, one per change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First part.
    pub major: u32,
    /// Second part.
    pub minor: u32,
    /// Third part.
    pub patch: u32,
}

impl Version {
    /// A version by its parts.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// At least this release.
    fn since(self, major: u32, minor: u32, patch: u32) -> bool {
        self >= Self::new(major, minor, patch)
    }

    /// 9.0 changed the error bodies and the 401/403 mapping.
    pub(super) fn new_errors(self) -> bool {
        self.since(9, 0, 0)
    }

    /// `users.createToken` takes `{userId, secret}` and nothing else.
    pub(super) fn create_token_secret(self) -> bool {
        self.since(8, 0, 0)
    }

    /// `users.createToken` checks the permission again beside the secret (#40768 and its backports).
    pub(super) fn create_token_permission(self) -> bool {
        !self.create_token_secret() || self.since(8, 5, 2) || (self.since(8, 3, 7) && self < Self::new(8, 4, 0))
    }

    /// `users.info?email=`.
    pub(super) fn info_by_email(self) -> bool {
        self.since(8, 4, 0)
    }

    /// `users.info?freeSwitchExtension=`.
    pub(super) fn info_by_extension(self) -> bool {
        self.since(8, 5, 0)
    }

    /// `users.list?email=`.
    pub(super) fn list_by_email(self) -> bool {
        self.since(8, 0, 0)
    }

    /// `users.list?query=` is silently ignored unless the environment allows it.
    pub(super) fn ignores_query(self) -> bool {
        self.since(7, 0, 0)
    }

    /// The environment can bring `query` back no more.
    pub(super) fn query_gone(self) -> bool {
        self.since(9, 0, 0)
    }

    /// `/livez` and `/readyz` exist, `/health` answers JSON.
    pub(super) fn health_json(self) -> bool {
        self.since(7, 11, 0)
    }

    /// `roles.addUserToRole` and `roles.removeUserFromRole` take a role by its name too.
    pub(super) fn role_by_name(self) -> bool {
        !self.since(8, 0, 0)
    }

    /// Lacking a permission at the door of a route is a 403; it read like a 401 in 6.x.
    pub(super) fn forbidden_is_403(self) -> bool {
        self.since(7, 0, 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().map_err(|e| format!("{text:?} is no version: {e}")));
        let mut next = || parts.next().unwrap_or(Ok(0));
        Ok(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

/// The generations of the web client's iframe login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// 3.x and 4.x: XHR, the status is not looked at.
    A,
    /// The React hook: a preflight, unhandled rejections.
    B,
    /// The first refactor: failures end at the stock login page.
    C,
    /// The fixed refactor: late 7.x and 8.x.
    D,
}

impl Generation {
    /// Its letter.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
        }
    }
}

/// `API_Enable_CORS` and `API_CORS_Origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestCors {
    /// Preflights are 405.
    Off,
    /// `*`.
    Any,
    /// These origins.
    List(Vec<String>),
}

/// The iframe login settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iframe {
    /// `Accounts_iframe_enabled`.
    pub enabled: bool,
    /// `Accounts_iframe_url`.
    pub url: String,
    /// `Accounts_Iframe_api_url`.
    pub api_url: String,
    /// `Accounts_Iframe_api_method`.
    pub api_method: String,
}

/// The account that the proxy calls the REST API with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its user id.
    pub id: String,
    /// Its username.
    pub username: String,
    /// Its personal access token, in plain text.
    pub token: String,
    /// Whether the token was made with "ignore two factor".
    pub bypass_two_factor: bool,
    /// Its password: the fall-back second factor is its SHA-256.
    pub password: String,
    /// Whether the token is a personal access token; else it is that of a login.
    pub personal: bool,
    /// Its roles; empty for the one that has the permissions below.
    pub roles: Vec<String>,
    /// The permissions of its role.
    pub permissions: Vec<String>,
}

impl Service {
    /// What a well set-up service account may do.
    pub const PERMISSIONS: [&'static str; 13] = [
        "api-bypass-rate-limit",
        "assign-roles",
        "create-personal-access-tokens",
        "create-user",
        "edit-other-user-active-status",
        "edit-other-user-info",
        "edit-privileged-setting",
        "logout-other-user",
        "user-generate-access-token",
        "view-d-room",
        "view-full-other-user-info",
        "view-other-user-info",
        "view-privileged-setting",
    ];

    /// What keeping accounts up to date needs besides: roles, pictures, channels and teams.
    pub const SYNC: [&'static str; 11] = [
        "access-permissions",
        "add-team-member",
        "add-user-to-any-c-room",
        "add-user-to-any-p-room",
        "edit-other-user-avatar",
        "edit-team-member",
        "kick-user-from-any-c-room",
        "kick-user-from-any-p-room",
        "remove-user",
        "view-all-teams",
        "view-other-user-channels",
    ];

    /// May do what keeping accounts up to date needs.
    #[must_use]
    pub fn syncing(mut self) -> Self {
        self.permissions.extend(Self::SYNC.iter().map(ToString::to_string));
        self
    }

    /// Takes one permission away.
    #[must_use]
    pub fn without(mut self, permission: &str) -> Self {
        self.permissions.retain(|p| p != permission);
        self
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            id: "gantryServiceAcct".into(),
            username: "gantry".into(),
            token: "stand-in-personal-access-token-0000000000000".into(),
            bypass_two_factor: true,
            password: "the service account's password".into(),
            personal: true,
            roles: Vec::new(),
            permissions: Self::PERMISSIONS.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `API_Enable_Rate_Limiter_Limit_Calls_Default` and `…_Time_Default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls in a window.
    pub calls: u32,
    /// The window.
    pub window: Duration,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { calls: 10, window: Duration::from_mins(1) }
    }
}

/// How a stand-in workspace is set up. The default is a well set-up 8.8.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which Rocket.Chat it is.
    pub version: Version,
    /// The environment variable `CREATE_TOKENS_FOR_USERS` (to 7.x).
    pub create_tokens_for_users: bool,
    /// The environment variable `CREATE_TOKENS_FOR_USERS_SECRET` (from 8.0).
    pub create_tokens_secret: Option<String>,
    /// The environment variable `MAX_RESUME_LOGIN_TOKENS`.
    pub max_login_tokens: usize,
    /// The environment variable `HTTP_FORWARDED_COUNT`.
    pub forwarded_count: usize,
    /// The environment variable `ALLOW_UNSAFE_QUERY_AND_FIELDS_API_PARAMS`.
    pub unsafe_query: bool,
    /// The service account.
    pub service: Service,
    /// Whether there is an administrator already; else the first created user becomes one.
    pub seeded_admin: bool,
    /// The iframe login settings.
    pub iframe: Iframe,
    /// Every other setting that differs from its default, by id.
    pub settings: Vec<(String, serde_json::Value)>,
    /// The environment variable `SETTINGS_BLOCKED`: settings that REST cannot change.
    pub blocked_settings: Vec<String>,
    /// Settings whose values stay as they are although a change of them is accepted.
    pub fixed_settings: Vec<String>,
    /// The REST rate limiter; `None` when off.
    pub rate_limit: Option<RateLimit>,
    /// REST CORS.
    pub cors: RestCors,
    /// What every REST call takes.
    pub latency: Duration,
    /// The generation of the web client.
    pub client: Generation,
    /// Active users that the licence allows, bots and apps not counted.
    pub seats: Option<usize>,
    /// Guests that the licence allows.
    pub guests: Option<usize>,
    /// Team names: they count as usernames.
    pub teams: Vec<String>,
    /// Roles beside `admin`, `bot`, `app`, `user` and `guest`.
    pub roles: Vec<String>,
    /// Roles whose holders have to set a second factor up.
    pub two_factor_roles: Vec<String>,
    /// How long a name, address or username cannot be changed again, whatever the rate limiter says.
    pub profile_pause: Duration,
    /// Whether the licence has custom roles; the free plan has none.
    pub custom_roles: bool,
    /// Where REST calls of the service account are reported.
    pub feed: Option<Feed>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::new(8, 8, 0),
            create_tokens_for_users: false,
            create_tokens_secret: Some("stand-in-create-token-secret".into()),
            max_login_tokens: 50,
            forwarded_count: 0,
            unsafe_query: false,
            service: Service::default(),
            seeded_admin: true,
            iframe: Iframe { enabled: false, url: String::new(), api_url: String::new(), api_method: "POST".into() },
            settings: Vec::new(),
            blocked_settings: Vec::new(),
            fixed_settings: Vec::new(),
            rate_limit: Some(RateLimit::default()),
            cors: RestCors::Off,
            latency: Duration::ZERO,
            client: Generation::D,
            seats: None,
            guests: None,
            teams: Vec::new(),
            roles: Vec::new(),
            two_factor_roles: Vec::new(),
            profile_pause: Duration::from_mins(1),
            custom_roles: true,
            feed: None,
        }
    }
}

impl Options {
    /// A well set-up workspace of this version.
    pub fn version(version: Version) -> Self {
        let old = !version.create_token_secret();
        Self { version, create_tokens_for_users: old, ..Self::default() }
    }
}
