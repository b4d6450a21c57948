//! `gantry embed`.

use crate::config::Config;
use crate::edge::scripts::{PINNED, integrity};

/// The element for host pages of this configuration's chat. Its address names the version, as its hash does: another
/// version answers 404 with words there, rather than have the browser refuse a script for its hash.
pub(super) fn element(config: &Config) -> String {
    let src = format!("{}{}{PINNED}", config.server.public_origin.as_str(), config.login.prefix);
    let chat = match config.server.public_url.path() {
        "/" => String::new(),
        // Rocket.Chat stands under a path, which the script's own address does not tell.
        _ => format!(" data-chat=\"{}\"", attribute(config.server.public_url.as_str())),
    };
    format!("<script src=\"{}\" integrity=\"{}\" crossorigin=\"anonymous\"{chat}></script>", attribute(&src), integrity())
}

fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}
