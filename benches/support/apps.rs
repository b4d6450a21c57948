//! The stand-ins, and the environment that puts a Gantry between them.

use std::io;

use gantry::demo::host_app::{self, HostApp, HostUser};
use gantry::demo::rocketchat::{Options, Workspace};
use tokio::net::TcpListener;

/// Both stand-ins.
#[derive(Debug)]
pub struct Apps {
    /// The workspace.
    pub chat: Workspace,
    /// The host app.
    pub app: HostApp,
    /// The variables of a Gantry with one worker between them.
    pub env: Vec<(String, String)>,
}

impl Apps {
    /// Starts them. They run on the runtime of the caller.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(options: Options) -> io::Result<Self> {
        let (service, secret) = (options.service.clone(), options.create_tokens_secret.clone());
        let chat = Workspace::start(TcpListener::bind("127.0.0.1:0").await?, options)?;
        let app = HostApp::start(TcpListener::bind("127.0.0.1:0").await?, host_app::Options::default())?;
        let env = [
            ("SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("SERVER__ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("SERVER__WORKERS", "1".to_owned()),
            ("SERVER__PUBLIC_URL", "http://chat.example.test".to_owned()),
            ("ROCKETCHAT__URL", chat.url()),
            ("ROCKETCHAT__USER_ID", service.id),
            ("ROCKETCHAT__AUTH_TOKEN", service.token),
            ("ROCKETCHAT__CREATE_TOKEN_SECRET", secret.unwrap_or_default()),
            ("FRAMING__ALLOWED_ANCESTORS", "https://app.example.test".to_owned()),
            ("CORS__ALLOWED_ORIGINS", "https://app.example.test".to_owned()),
            ("IDENTITY__SOURCE", "forward_auth".to_owned()),
            ("IDENTITY__FORWARD_AUTH__URL", format!("{}/api/me", app.url())),
        ];
        let env = env.map(|(name, value)| (format!("GANTRY_{name}"), value)).to_vec();
        Ok(Self { chat, app, env })
    }

    /// Sets a variable, named without `GANTRY_`, or takes it out when it is empty.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let name = format!("GANTRY_{name}");
        self.env.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            self.env.push((name, value.to_owned()));
        }
        self
    }

    /// A user whom only the host app knows, signed in there: the line with the cookie.
    pub fn guest(&self, username: &str) -> String {
        self.app.add_user(HostUser::new(username, username));
        format!("Cookie: {}\r\n", self.app.sign_in(username))
    }

    /// How often these endpoints were called.
    pub fn calls<const N: usize>(&self, endpoints: [&str; N]) -> [usize; N] {
        endpoints.map(|endpoint| self.chat.calls(endpoint))
    }
}

/// The calls that a login may cost.
pub const STEPS: [&str; 3] = ["users.info", "users.create", "users.createToken"];
