//! Tests of the pages as they are answered.

use std::collections::HashSet;

use super::*;
use crate::config::Login;
use crate::error::RefusalKind;

fn config(login: Login) -> Config {
    Config { login, ..crate::config::example(&[("rocketchat.create_token_secret", "create-token-secret")]) }
}

fn login() -> Login {
    Login {
        prefix: "/_gantry/".into(),
        token_paths: vec!["/_gantry/token".into(), "/api/rocketchat/token".into()],
        sign_in_url: Some("https://app.example.com/sign-in?return={return}".into()),
        app_name: "Harbor".into(),
        logo_file: None,
        accent_color: "#0b57d0".into(),
        page_file: None,
        timeout: Duration::from_secs(15),
        native: crate::config::example(&[]).login.native,
    }
}

fn loading(login: Login) -> Response<Bytes> {
    Pages::new(&config(login)).unwrap().loading(&LoadingRequest::new(RequestId::random(), None))
}

fn text(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

fn head(response: &Response<Bytes>, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// The parsed JSON block of a page.
fn block(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("id=\"gantry-config\"").expect("the block");
    let (_, rest) = rest.split_once('>').unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

fn nonce_of(response: &Response<Bytes>) -> String {
    let policy = head(response, "content-security-policy").expect("a policy");
    let (_, rest) = policy.split_once("script-src 'nonce-").unwrap();
    rest.split_once('\'').unwrap().0.to_owned()
}

#[test]
fn pages_have_their_own_policy_with_a_fresh_nonce() {
    let pages = Pages::new(&config(login())).unwrap();
    let id = RequestId::random();
    let html = HeaderValue::from_static("text/html");
    let mut seen = HashSet::new();
    for _ in 0..3 {
        for response in [
            pages.loading(&LoadingRequest::new(id, None)),
            pages.error(Some(&html), StatusCode::BAD_GATEWAY, "The chat server's answer could not be used.", &id),
        ] {
            let nonce = nonce_of(&response);
            assert_eq!(
                head(&response, "content-security-policy").unwrap(),
                format!(
                    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; form-action 'none'; base-uri 'none'"
                )
            );
            let page = text(&response);
            let elements = page.matches("<script").count() + page.matches("<style").count();
            assert_eq!(page.matches(&format!(" nonce=\"{nonce}\">")).count(), elements, "each script and style carries the nonce");
            assert!(page.contains(id.as_str()) && !page.contains("{{"));
            assert!(!page.contains(" style=") && !page.contains(" onclick"), "the policy forbids inline attributes");
            assert!(!page.replace("http://www.w3.org/", "").contains("src=\"http"), "nothing from elsewhere");
            assert!(seen.insert(nonce), "a nonce is used once");
            for (name, value) in [
                ("cache-control", "no-store"),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("content-type", "text/html; charset=utf-8"),
            ] {
                assert_eq!(head(&response, name).as_deref(), Some(value), "{name}");
            }
            assert_eq!(head(&response, "content-length"), Some(response.body().len().to_string()));
            assert!(head(&response, "permissions-policy").is_some());
        }
    }
}

#[test]
fn the_script_gets_its_configuration() {
    let id = RequestId::random();
    let pages = Pages::new(&config(login())).unwrap();
    for (query, electron) in [
        (None, false),
        (Some("client=electron"), true),
        (Some("a=b&client=electron"), true),
        (Some("client=electronic&xclient=electron"), false),
    ] {
        let block = block(text(&pages.loading(&LoadingRequest::new(id, query))));
        let expected = serde_json::json!({
            "app_name": "Harbor", "prefix": "/_gantry/", "session_path": "/_gantry/session", "token_path": "/_gantry/token",
            "public_origin": "https://chat.example.com", "public_url": "https://chat.example.com/",
            "sign_in_url": "https://app.example.com/sign-in?return={return}",
            "timeout": 20_000, "request_id": id.as_str(), "electron": electron,
        });
        assert_eq!(block, expected, "{query:?}");
    }
    assert_eq!(block(text(&loading(Login { sign_in_url: None, ..login() })))["sign_in_url"], serde_json::Value::Null);
}

#[test]
fn hostile_names_stay_text() {
    for name in [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "\"><img src=x onerror=alert(1)>",
        "a'b\"c\\d\u{2028}e",
        "{{nonce}} {{config}} {{script}}",
        "{{request_id}}",
    ] {
        let response = loading(Login { app_name: name.into(), ..login() });
        let page = text(&response);
        assert_eq!(block(page)["app_name"], name, "the script gets it as it is");
        assert_eq!(page.matches("<script").count(), 2 + SCRIPT.matches("<script").count(), "{name}");
        assert_eq!(page.matches("<img").count(), 0, "{name}");
        let nonce = nonce_of(&response);
        assert_eq!(page.matches(&nonce).count(), 3, "{name}: no further element gets the nonce");
        assert!(page.contains(&format!("Sign in to {}</a>", html(name))), "{name}");
    }
    let url = "https://app.example.com/?a=</script><script>alert(1)//\u{2029}&r={return}";
    let response = loading(Login { sign_in_url: Some(url.into()), ..login() });
    assert_eq!(block(text(&response))["sign_in_url"], url);
    assert_eq!(text(&response).matches("<script").count(), 2 + SCRIPT.matches("<script").count());
}

#[test]
fn our_assets_do_not_end_their_own_element() {
    assert!(!SCRIPT.to_ascii_lowercase().contains("</script") && !SCRIPT.contains("<!--"));
    assert!(!STYLE.to_ascii_lowercase().contains("</style"));
}

#[test]
fn sign_in_addresses_are_web_addresses() {
    for url in ["javascript:alert(1)//{return}", "/sign-in", "", "data:text/html,x", "{return}"] {
        let error = Pages::new(&config(Login { sign_in_url: Some(url.into()), ..login() })).unwrap_err();
        assert!(error.to_string().starts_with("login.sign_in_url: "), "{error}");
    }
    assert!(Pages::new(&config(Login { sign_in_url: Some("http://localhost:4000/in".into()), ..login() })).is_ok());
}

#[test]
fn logos_are_embedded_by_content_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logo.png"); // the name proves nothing
    let with = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Pages::new(&config(Login { logo_file: Some(path.clone()), app_name: "A&\"B".into(), ..login() }))
    };
    let limit = usize::try_from(brand::MAX_LOGO).unwrap();
    let mut largest = b"GIF89a".to_vec();
    largest.resize(limit, 0);
    for (bytes, start) in [
        (b"<svg onload='alert(1)'></svg>".as_slice(), "<img src=\"data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9"),
        (b"\x89PNG\r\n\x1a\n", "<img src=\"data:image/png;base64,iVBORw0KGgo=\" alt=\"A&amp;&quot;B\">"),
        (b"\xff\xd8\xff\xe0", "<img src=\"data:image/jpeg;base64,"),
        (b"RIFF\0\0\0\0WEBP", "<img src=\"data:image/webp;base64,"),
        (&largest, "<img src=\"data:image/gif;base64,"),
    ] {
        let response = with(bytes).unwrap().loading(&LoadingRequest::new(RequestId::random(), None));
        assert!(text(&response).contains(start), "{start}");
        assert!(!text(&response).contains("onload="), "an SVG is never inlined");
    }
    largest.push(0);
    assert!(matches!(with(&largest), Err(PagesError::TooLarge { limit, .. }) if limit == brand::MAX_LOGO));
    assert!(matches!(with(b"BM not an image"), Err(PagesError::UnknownImage(_))));
    std::fs::remove_file(&path).unwrap();
    let missing = Pages::new(&config(Login { logo_file: Some(path.clone()), ..login() })).unwrap_err();
    assert!(missing.to_string().starts_with(&format!("login.logo_file: {} cannot be read: ", path.display())), "{missing}");
}

#[test]
fn the_accent_is_a_colour_and_reaches_the_style() {
    let response = loading(Login { accent_color: "#fd0".into(), ..login() });
    assert!(text(&response).contains("--accent: #ffdd00; --on-accent: #161a21;"), "dark text on a light accent");
    for color in ["red", "#12345", "#fff;}</style><script>"] {
        let error = Pages::new(&config(Login { accent_color: color.into(), ..login() })).unwrap_err();
        assert!(matches!(error, PagesError::Color(_)), "{color}");
    }
}

#[test]
fn an_operators_page_replaces_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    let with = |page: &[u8]| {
        std::fs::write(&path, page).unwrap();
        Pages::new(&config(Login { page_file: Some(path.clone()), app_name: "A<B".into(), ..login() }))
    };
    let page = b"<style nonce=\"{{nonce}}\"></style>{{app_name}} {{unknown}} {{request_id}}{{config}}{{script}}";
    let id = RequestId::random();
    let response = with(page).unwrap().loading(&LoadingRequest::new(id, None));
    let nonce = nonce_of(&response);
    assert!(text(&response).starts_with(&format!("<style nonce=\"{nonce}\"></style>A&lt;B {{{{unknown}}}} {id}<script type=")));
    assert!(text(&response).contains(SCRIPT));
    assert_eq!(block(text(&response))["request_id"], id.as_str());

    assert!(with(b"<p>no script of ours</p>").is_ok());
    assert!(matches!(with(b"{{script}}{{config}}"), Err(PagesError::ScriptWithoutConfig(_))));
    let error = with(b"{{script}}").unwrap_err();
    assert!(error.to_string().ends_with("has {{script}} but no {{config}} before it"), "{error}");
    assert!(matches!(with(b"\xff"), Err(PagesError::NotText(_))));
}

#[test]
fn errors_are_told_as_asked_for() {
    let pages = Pages::new(&config(login())).unwrap();
    let id = RequestId::random();
    let message = "It broke: <b>\"now\"</b>";
    for (status, code, again) in [
        (StatusCode::BAD_REQUEST, "bad_request", false),
        (StatusCode::NOT_FOUND, "not_found", false),
        (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", false),
        (StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", true),
        (StatusCode::NOT_IMPLEMENTED, "not_implemented", false),
        (StatusCode::BAD_GATEWAY, "bad_gateway", true),
        (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", true),
        (StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", true),
    ] {
        let json = pages.error(Some(&HeaderValue::from_static("application/json")), status, message, &id);
        assert_eq!(json.status(), status);
        let body: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
        assert_eq!(body, serde_json::json!({ "error": code, "message": message, "id": id.as_str() }));
        assert_eq!(head(&json, "content-type").as_deref(), Some("application/json"));

        let html = pages.error(Some(&HeaderValue::from_static("text/html,*/*;q=0.8")), status, message, &id);
        assert_eq!(html.status(), status);
        let page = text(&html);
        assert!(page.contains("It broke: &lt;b&gt;&quot;now&quot;&lt;/b&gt;") && page.contains(id.as_str()), "{status}");
        assert_eq!(page.contains("Try again"), again, "{status}");
        for response in [json, html] {
            assert_eq!(head(&response, "cache-control").as_deref(), Some("no-store"));
            assert_eq!(head(&response, "x-content-type-options").as_deref(), Some("nosniff"));
            assert_eq!(head(&response, "vary").as_deref(), Some("accept"));
            assert_eq!(head(&response, "content-length"), Some(response.body().len().to_string()));
        }
    }
}

#[test]
fn refusals_name_their_kind_and_nothing_inner() {
    let id = RequestId::random();
    for kind in RefusalKind::ALL {
        let refusal = Refusal::new(kind, "Words for the person.", "inner detail of http://10.0.0.1");
        let response = json_refusal(&refusal, &id);
        assert_eq!(response.status(), kind.status());
        assert_ne!(response.status(), StatusCode::OK);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body, serde_json::json!({ "error": kind.code(), "message": "Words for the person.", "id": id.as_str() }));
        assert_eq!(head(&response, "content-type").as_deref(), Some("application/json"));
        assert_eq!(head(&response, "cache-control").as_deref(), Some("no-store"));
        assert_eq!(head(&response, "x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(head(&response, "www-authenticate"), None);
        let waits = kind.status() == StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(head(&response, "retry-after").is_some(), waits, "{}", kind.code());
    }
}

#[test]
fn retry_after_is_in_whole_seconds() {
    for (after, expected) in [
        (Duration::ZERO, "1"),
        (Duration::from_millis(1), "1"),
        (Duration::from_secs(1), "1"),
        (Duration::from_millis(1001), "2"),
        (Duration::from_millis(59_500), "60"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let refusal = Refusal::new(RefusalKind::RateLimited, "Wait.", "").retry_after(after);
        assert_eq!(head(&json_refusal(&refusal, &RequestId::random()), "retry-after").as_deref(), Some(expected));
    }
}
