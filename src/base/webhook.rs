//! Sends news to a web address of the settings, signed with a secret of the settings.
//!
//! The body is JSON. Its signature is the header
//! [`SIGNATURE_HEADER`](lattice_protocol::attention::SIGNATURE_HEADER), with the time in it, so
//! that a receiver can refuse what somebody sends again later. Neither the address, which may have
//! a token in it, nor the secret is in any error.

use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE, redirect};

use crate::config;
use lattice_protocol::attention::SIGNATURE_HEADER;

/// How long an attempt may take with everything.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A receiver of news.
pub struct Webhook {
    client: Client,
    url: Url,
    key: Option<hmac::Key>,
}

/// Why news did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It makes no sense to send it again.
    #[error("the receiver refuses it with status {0}")]
    Refused(u16),
    #[error("the receiver answers with status {0}")]
    Busy(u16),
    #[error("{0}")]
    Unreachable(String),
}

/// Why there is no receiver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("attention_webhook_url is no URL")]
    Url,
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

impl Webhook {
    /// Makes a receiver of the settings.
    pub fn new(settings: &config::Webhook) -> Result<Self, Unusable> {
        let url = Url::parse(settings.url.expose().trim()).map_err(|_| Unusable::Url)?;
        // A message signed for one receiver is not handed to another.
        let client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .build();
        let client = client.map_err(|error| Unusable::Client(error.to_string()))?;
        let secret = settings.secret.as_ref();
        let key = secret.map(|it| hmac::Key::new(hmac::HMAC_SHA256, it.expose().as_bytes()));
        Ok(Self { client, url, key })
    }

    /// Sends a body of JSON once, signed as of a moment in seconds since 1970.
    pub async fn send(&self, body: Bytes, now_s: u64) -> Result<(), Failure> {
        let mut request =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(SIGNATURE_HEADER, signature(key, now_s, &body));
        }
        let answered = request.body(body).send().await;
        let answer = answered.map_err(|error| Failure::Unreachable(words(error)))?;
        judge(answer.status())
    }
}

/// Returns the header of a body.
fn signature(key: &hmac::Key, now_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{now_s}.").as_bytes());
    context.update(body);
    format!("t={now_s},v1={}", HEXLOWER.encode(context.sign().as_ref()))
}

fn judge(status: StatusCode) -> Result<(), Failure> {
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_server_error() || again.contains(&status) => {
            Err(Failure::Busy(status.as_u16()))
        }
        status => Err(Failure::Refused(status.as_u16())),
    }
}

/// Returns an error with its causes, without the address.
fn words(error: reqwest::Error) -> String {
    lattice_protocol::errors::chain(&error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_signed_with_its_time() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let header = signature(&key, 1_700_000_000, br#"{"a":1}"#);
        // As `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret` has it.
        assert_eq!(
            header,
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
        assert_ne!(header, signature(&key, 1_700_000_001, br#"{"a":1}"#));
    }

    #[test]
    fn it_is_sent_again_only_where_that_may_help() {
        for (status, outcome) in [
            (200, Ok(())),
            (204, Ok(())),
            (503, Err(Failure::Busy(503))),
            (429, Err(Failure::Busy(429))),
            (302, Err(Failure::Refused(302))),
            (404, Err(Failure::Refused(404))),
        ] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap()), outcome, "{status}");
        }
    }

    #[test]
    fn neither_address_nor_secret_is_told() {
        let secret = |text: &str| config::Secret::new(text.to_owned());
        let wrong = config::Webhook { url: secret("https://"), secret: Some(secret("hunter2")) };
        let error = Webhook::new(&wrong).err().unwrap().to_string();
        assert!(error.contains("attention_webhook_url") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
    }
}
