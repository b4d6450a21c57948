//! `gantry dev`: one line in front of any workspace, on a developer's own machine.
//!
//! This makes a configuration out of a few flags; what the proxy then does differently is in
//! [`crate::edge::dev`].

pub mod authority;
pub mod inspect;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use socket2::Socket;
use url::Url;

use crate::app::{Bound, Running, StartError};
use crate::config::dev::{Chosen, Dev, Pick};
use crate::config::{self, Ancestor, ClientAuth, Config, Origin, Problem};
use crate::demo::reserve;
use crate::headers::local::is_local;
use authority::{Authority, Fresh};
use inspect::Found;

const HTTPS_PORT: u16 = 8443;
const HTTP_PORT: u16 = 8080;
/// The name that is opened: cookies of it are no other local program's, unlike those of `localhost`.
const HOST: &str = "chat.localhost";
/// A header that no request's value is ever believed of; the picked user is who everybody is.
const UNUSED: &str = "x-gantry-dev-unused";
/// Who may frame the chat.
const ANCESTORS: [&str; 6] = [
    "http://localhost:*",
    "https://localhost:*",
    "http://*.localhost:*",
    "https://*.localhost:*",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
];

/// The flags of `gantry dev`.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// The address of the workspace, else `rocketchat.url`.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// Who to sign in as. Without it a page lists the users.
    #[arg(long = "as", value_name = "USER")]
    pub username: Option<String>,
    /// Where to listen, on loopback: 8443 (8080 with --http) on 127.0.0.1 by default. Port 0 chooses a free one.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "port")]
    pub listen: Option<SocketAddr>,
    /// The port on 127.0.0.1 alone; 0 chooses a free one.
    #[arg(long)]
    pub port: Option<u16>,
    /// The name to open: localhost, or a name that ends in .localhost.
    #[arg(long, default_value = HOST, value_name = "NAME")]
    pub host: String,
    /// Plain http instead of https.
    #[arg(long)]
    pub http: bool,
    /// A host app on this machine (scheme, name and port) that exchanges messages with the chat it frames. May be repeated.
    #[arg(long, value_name = "ORIGIN")]
    pub app: Vec<Origin>,
    /// Lets administrators be signed in, too.
    #[arg(long)]
    pub allow_admin: bool,
    /// Takes any certificate of the workspace for good. Anybody on the way could then read the service account's token.
    #[arg(long)]
    pub insecure: bool,
    /// Prints how a browser comes to trust the certificates of this machine's dev proxies, and ends.
    #[arg(long)]
    pub trust: bool,
}

/// What to do where the service account is missing.
pub const NO_ACCOUNT: &str = "
gantry dev signs people in with a service account of the workspace. Give it three things of that account, as
variables, with --config FILE or with --set KEY=VALUE:

  GANTRY_ROCKETCHAT__USER_ID                   its user id
  GANTRY_ROCKETCHAT__AUTH_TOKEN_FILE           a file with a personal access token (or …AUTH_TOKEN, the token itself).
                                               In Rocket.Chat, as that account: My account, Personal access tokens,
                                               Add, with \"Ignore two factor authentication\"; the id is shown there too
  GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET_FILE  a file with the workspace's CREATE_TOKENS_FOR_USERS_SECRET (8.0 and later;
                                               before, the workspace needs CREATE_TOKENS_FOR_USERS=true instead)

The account needs the permissions user-generate-access-token, view-full-other-user-info and, for the list of
users, view-d-room. Its own token is never given to a browser.";

/// Why there is no dev proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A flag or the surroundings are wrong.
    Usage(String),
    /// The service account is not (wholly) there.
    NoAccount(Vec<Problem>),
    /// The configuration is wrong.
    Config(Vec<Problem>),
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that was asked for: its name and text.
    pub file: Option<(String, String)>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Keys and values of `--set`.
    pub flags: Vec<(String, String)>,
}

/// A dev proxy that could be started.
#[derive(Debug)]
pub struct Prepared {
    /// What it goes by.
    pub config: Config,
    /// Where it will listen.
    pub addr: SocketAddr,
    /// The name to open.
    pub host: String,
    /// The machine's certificate authority, for https.
    pub authority: Option<Authority>,
    /// Holds the port until the proxy has it.
    reserved: Socket,
}

impl Prepared {
    /// The address to open.
    pub fn address(&self) -> String {
        let path = self.config.rocketchat.url.path().trim_end_matches('/');
        format!("{}{path}/", self.config.server.public_origin)
    }

    /// The page that lists users.
    pub fn picker(&self) -> String {
        format!("{}{}dev", self.config.server.public_origin, self.config.login.prefix)
    }

    /// Takes over what was found at the workspace.
    pub fn learn(&mut self, found: &Found) {
        if let Some(dev) = &mut self.config.dev {
            dev.site.clone_from(&found.site);
            if let Some(pick) = dev.chosen.get() {
                dev.chosen.set(Some(Pick { user_id: found.user_id.clone(), ..Pick::clone(&pick) }));
            }
        }
    }

    /// Who is to be signed in, as given with `--as`.
    pub fn username(&self) -> Option<String> {
        self.config.dev.as_ref()?.chosen.get().map(|pick| pick.username.clone())
    }

    /// What the person at the terminal has to know.
    pub fn words(&self, found: &Found) -> String {
        let upstream = &self.config.rocketchat.url;
        let version = found.version.as_ref().map(|version| format!(" (Rocket.Chat {version})")).unwrap_or_default();
        let mut lines = vec![format!(
            "Gantry dev, in front of {upstream}{version}. Not for production: whoever reaches it on this machine is signed in."
        )];
        lines.push(String::new());
        match self.username() {
            Some(name) => {
                let who = if found.trouble.is_empty() { "signed in as" } else { "for now nobody is signed in; then as" };
                lines.push(format!("  Open {}  {who} @{name}", self.address()));
                lines.push(format!("       {}  to become somebody else", self.picker()));
            }
            None => lines.push(format!("  Open {}  and pick a user", self.picker())),
        }
        lines.push(String::new());
        for trouble in &found.trouble {
            lines.push(format!("  Not well: {}. It is tried again by itself.", trouble.trim_end_matches('.')));
        }
        if self.config.dev.as_ref().is_some_and(|dev| !dev.verify) {
            lines.push(
                "  --insecure: the workspace's certificate is not checked, so that anybody on the way could read all of this.".to_owned(),
            );
        }
        lines.push("  Rewritten on the way: Host, Origin, Referer, redirects, cookies, Strict-Transport-Security, policies,".to_owned());
        lines.push("  ROOT_URL, and the public settings Site_Url and Accounts_iframe_*, as the browser here sees them.".to_owned());
        lines.push("  The workspace itself is not changed, and needs no setting.".to_owned());
        if let Some(site) = found.site.as_deref().filter(|site| !same_origin(site, upstream)) {
            lines.push(format!("  It calls itself {site} (Site_Url); links to that lead here too."));
        }
        if let Some(authority) = &self.authority {
            lines.push(String::new());
            let news = if authority.is_new { "was made just now" } else { "is kept" };
            lines.push(format!("  The certificate authority of this machine's dev proxies {news} at"));
            lines.push(format!("  {}", authority.path().display()));
            lines.push("  A browser that does not know it warns once. To have it trusted: gantry dev --trust (or use --http)".to_owned());
        }
        lines.push(String::new());
        lines.push("  Ctrl-C ends it.".to_owned());
        lines.join("\n")
    }

    /// Starts the proxy, and what keeps its certificate fresh.
    ///
    /// # Errors
    /// The port is taken, or threads cannot be started.
    pub fn start(self) -> Result<(Running, Option<Fresh>), StartError> {
        let Self { config, addr, host, authority, reserved } = self;
        let bound = Bound::bind(config)?;
        drop(reserved);
        let thread = |error| StartError { key: "server.workers", why: format!("a thread cannot be started: {error}") };
        let fresh = authority.map(|authority| Fresh::keep(authority, host, addr.port())).transpose().map_err(thread)?;
        Ok((bound.start()?, fresh))
    }
}

/// This user's authority; it is made if there is none.
fn authority(env: &[(String, String)]) -> Result<Authority, Refused> {
    let var = |wanted: &str| env.iter().find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value.as_str());
    let dir = |wanted: &str| var(wanted).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = dir("XDG_DATA_HOME").or_else(|| dir("HOME").map(|home| home.join(".local/share"))).ok_or_else(|| {
        Refused::Usage("neither XDG_DATA_HOME nor HOME names a directory for the certificate authority; set one, or use --http".into())
    })?;
    Authority::open(&base.join("gantry"), var("USER").unwrap_or("somebody")).map_err(Refused::Usage)
}

/// How a browser on this machine comes to trust the dev proxies here; the authority is made if there is none.
///
/// # Errors
/// See [`Refused`].
pub fn trust(env: &[(String, String)]) -> Result<String, Refused> {
    let authority = authority(env)?;
    let path = authority.path();
    let mut lines = vec![
        "The certificate authority of this machine's dev proxies is".to_owned(),
        format!("  {}", path.display()),
        "It can vouch for localhost and names below it only. Whoever reads the key beside it can still pose as those".to_owned(),
        "to whoever trusts it: trust it on this machine alone.".to_owned(),
        String::new(),
    ];
    lines.extend(authority::how_to_trust(&path).into_iter().map(|line| format!("  {line}")));
    Ok(lines.join("\n"))
}

/// Makes the configuration, and the certificates that it needs.
///
/// # Errors
/// See [`Refused`].
pub fn prepare(options: &Options, sources: &Sources) -> Result<Prepared, Refused> {
    let host = host(&options.host)?;
    let wanted = listen(options)?;
    let upstream_set = sources.flags.iter().any(|(key, _)| key == "rocketchat.url");
    let reserved = reserve(wanted).map_err(|error| {
        Refused::Usage(format!("{wanted} cannot be had: {error}; is another dev proxy running? --port 0 chooses a free port"))
    })?;
    let addr = reserved.local_addr().ok().and_then(|addr| addr.as_socket()).unwrap_or(wanted);
    let origin = format!("{}://{host}:{}", if options.http { "http" } else { "https" }, addr.port());

    // What the person who sets a key by hand may change, and what makes it a dev proxy.
    let mut flags = pairs(&[
        ("users.create", "false"),
        ("users.match_by", "username"),
        ("users.external_id", ""),
        ("login.app_name", "the dev proxy"),
        ("log.level", "info"),
        ("log.access", "false"),
        ("server.admin_listen", "off"),
        ("server.shutdown_grace", "2s"),
    ]);
    if options.allow_admin {
        flags.extend(pairs(&[("users.deny_roles", "bot,app")]));
    }
    flags.extend(sources.flags.iter().cloned());
    if let Some(upstream) = &options.upstream {
        if upstream_set {
            return Err(Refused::Usage("--upstream and --set rocketchat.url say the same thing; keep one".into()));
        }
        flags.push(("rocketchat.url".into(), upstream.clone()));
    }
    flags.extend(pairs(&[
        ("server.public_url", origin.as_str()),
        ("server.workers", "1"),
        ("server.redirect_to_https", "false"),
        ("server.tls.cert_dir", ""),
        ("server.tls.client_auth", "off"),
        ("server.acme.domains", ""),
        ("identity.source", "header"),
        ("identity.header.id", UNUSED),
    ]));
    let listening = addr.to_string();
    let mut authority = None;
    if options.http {
        let none =
            [("server.listen", listening.as_str()), ("server.tls.listen", ""), ("server.tls.cert_file", ""), ("server.tls.key_file", "")];
        flags.extend(pairs(&none));
    } else {
        let opened = self::authority(&sources.env)?;
        let leaf = opened.leaf(&host, addr.port()).map_err(Refused::Usage)?;
        let (cert, key) = (leaf.cert.display().to_string(), leaf.key.display().to_string());
        flags.extend(pairs(&[
            ("server.listen", "off"),
            ("server.tls.listen", listening.as_str()),
            ("server.tls.cert_file", cert.as_str()),
            ("server.tls.key_file", key.as_str()),
        ]));
        authority = Some(opened);
    }
    let file = sources.file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let loaded = config::load(file, sources.env.iter().cloned(), &flags).map_err(|problems| refused(problems, options))?;
    let config = for_dev(loaded.config, options, &origin);
    Ok(Prepared { config, addr, host, authority, reserved })
}

fn same_origin(site: &str, upstream: &Url) -> bool {
    Url::parse(site).is_ok_and(|site| site.origin() == upstream.origin())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn host(host: &str) -> Result<String, Refused> {
    if is_local(host) && !host.contains(':') {
        Ok(host.to_ascii_lowercase())
    } else {
        Err(Refused::Usage(format!(
            "--host {host}: a dev proxy is opened as localhost or as a name that ends in .localhost, without a port"
        )))
    }
}

fn listen(options: &Options) -> Result<SocketAddr, Refused> {
    let port = options.port.unwrap_or(if options.http { HTTP_PORT } else { HTTPS_PORT });
    let addr = options.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let ip: IpAddr = addr.ip().to_canonical();
    if ip.is_loopback() {
        return Ok(addr);
    }
    Err(Refused::Usage(format!(
        "--listen {addr} is not loopback: whoever reaches a dev proxy is signed in, so that it listens on 127.0.0.1 or [::1] only; \
         `gantry run` is for other people"
    )))
}

/// A service account that is not there gets words of its own, and so does the flag that stands for a key.
fn refused(mut problems: Vec<Problem>, options: &Options) -> Refused {
    const ACCOUNT: [&str; 2] = ["rocketchat.user_id", "rocketchat.auth_token"];
    for problem in problems.iter_mut().filter(|problem| problem.key == "rocketchat.url") {
        if problem.value.is_empty() && options.upstream.is_none() {
            problem.why = "is required: the address of the workspace, such as https://chat.example.com".into();
        }
        if problem.value.is_empty() || options.upstream.is_some() {
            (problem.key, problem.place) = ("--upstream".into(), String::new());
        }
    }
    let missing = |problem: &Problem| problem.value.is_empty() && ACCOUNT.contains(&problem.key.as_str());
    if problems.iter().any(missing) { Refused::NoAccount(problems) } else { Refused::Config(problems) }
}

/// What no key can say. Whatever a file for production says of proxies in front is not true here.
fn for_dev(mut config: Config, options: &Options, origin: &str) -> Config {
    let server = &mut config.server;
    server.trusted_proxies = Vec::new();
    server.proxy_protocol = Vec::new();
    server.acme = None;
    if let Some(tls) = &mut server.tls {
        tls.client_auth = ClientAuth::Off;
        tls.hsts = None;
    }
    config.cors.local = true;
    config.framing.allowed_ancestors = ANCESTORS.iter().map(|source| Ancestor::Subdomains((*source).to_owned())).collect();
    config.login.sign_in_url = Some(format!("{origin}{}dev?return={{return}}", config.login.prefix));
    config.login.page_file = None;
    config.session.logout_secret = None;
    let username = options.username.as_deref().map(|name| name.trim().trim_start_matches('@').to_owned()).filter(|name| !name.is_empty());
    config.dev = Some(Dev {
        chosen: Chosen::new(username),
        upstream: Origin::of(&config.rocketchat.url).unwrap_or_else(|| config.server.public_origin.clone()),
        site: None,
        verify: !options.insecure,
        apps: options.app.clone(),
    });
    config
}
