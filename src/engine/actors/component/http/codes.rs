//! The error codes of `wasi:http`: which one a guest is given for what failed, and what its caller
//! is told of the one that it answers with.

use wasmtime_wasi_http::{Error, p2, p3};

use crate::rpc::call::CallError;
use lattice_protocol::contracts::{httpclient::FailureCause, httpserver};

/// Words the error that a guest answered with: its code with its name, by which servers choose
/// their status (components, section 4.4).
pub(super) fn told(error: &wasmtime::Error) -> String {
    let words = |code: &Error| httpserver::error_code(name_of(code), code);
    match (
        error.downcast_ref::<p2::bindings::http::types::ErrorCode>(),
        error.downcast_ref::<p3::bindings::http::types::ErrorCode>(),
        error.downcast_ref::<Error>(),
    ) {
        (Some(code), _, _) => words(&Error::from(code.clone())),
        (_, Some(code), _) => words(&Error::from(code.clone())),
        (_, _, Some(code)) => words(code),
        _ => format!("the component gave no answer: {error:#}"),
    }
}

/// The name of a code in the interface.
fn name_of(code: &Error) -> &'static str {
    match code {
        Error::DnsTimeout => "DNS-timeout",
        Error::DnsError { .. } => "DNS-error",
        Error::DestinationNotFound => "destination-not-found",
        Error::DestinationUnavailable => "destination-unavailable",
        Error::DestinationIpProhibited => "destination-IP-prohibited",
        Error::DestinationIpUnroutable => "destination-IP-unroutable",
        Error::ConnectionRefused => "connection-refused",
        Error::ConnectionTerminated => "connection-terminated",
        Error::ConnectionTimeout => "connection-timeout",
        Error::ConnectionReadTimeout => "connection-read-timeout",
        Error::ConnectionWriteTimeout => "connection-write-timeout",
        Error::ConnectionLimitReached => "connection-limit-reached",
        Error::TlsProtocolError => "TLS-protocol-error",
        Error::TlsCertificateError => "TLS-certificate-error",
        Error::TlsAlertReceived { .. } => "TLS-alert-received",
        Error::HttpRequestDenied => "HTTP-request-denied",
        Error::HttpRequestLengthRequired => "HTTP-request-length-required",
        Error::HttpRequestBodySize(_) => "HTTP-request-body-size",
        Error::HttpRequestMethodInvalid => "HTTP-request-method-invalid",
        Error::HttpRequestUriInvalid => "HTTP-request-URI-invalid",
        Error::HttpRequestUriTooLong => "HTTP-request-URI-too-long",
        Error::HttpRequestHeaderSectionSize(_) => "HTTP-request-header-section-size",
        Error::HttpRequestHeaderSize { .. } => "HTTP-request-header-size",
        Error::HttpRequestTrailerSectionSize(_) => "HTTP-request-trailer-section-size",
        Error::HttpRequestTrailerSize { .. } => "HTTP-request-trailer-size",
        Error::HttpResponseIncomplete => "HTTP-response-incomplete",
        Error::HttpResponseHeaderSectionSize(_) => "HTTP-response-header-section-size",
        Error::HttpResponseHeaderSize { .. } => "HTTP-response-header-size",
        Error::HttpResponseBodySize(_) => "HTTP-response-body-size",
        Error::HttpResponseTrailerSectionSize(_) => "HTTP-response-trailer-section-size",
        Error::HttpResponseTrailerSize { .. } => "HTTP-response-trailer-size",
        Error::HttpResponseTransferCoding(_) => "HTTP-response-transfer-coding",
        Error::HttpResponseContentCoding(_) => "HTTP-response-content-coding",
        Error::HttpResponseTimeout => "HTTP-response-timeout",
        Error::HttpUpgradeFailed => "HTTP-upgrade-failed",
        Error::HttpProtocolError | Error::Hyper(_) => "HTTP-protocol-error",
        Error::LoopDetected => "loop-detected",
        Error::ConfigurationError => "configuration-error",
        _ => "internal-error",
    }
}

/// The error that the provider named, as the interface has it (components, section 2.4).
pub(super) fn failure_of(cause: FailureCause, text: String) -> Error {
    match cause {
        FailureCause::DnsError => Error::DnsError { rcode: None, info_code: None },
        FailureCause::DestinationIpProhibited => Error::DestinationIpProhibited,
        FailureCause::ConnectionRefused => Error::ConnectionRefused,
        FailureCause::ConnectionTimeout => Error::ConnectionTimeout,
        FailureCause::ConnectionLimitReached => Error::ConnectionLimitReached,
        FailureCause::TlsCertificateError => Error::TlsCertificateError,
        FailureCause::TlsProtocolError => Error::TlsProtocolError,
        FailureCause::HttpRequestDenied => Error::HttpRequestDenied,
        FailureCause::HttpRequestBodySize => Error::HttpRequestBodySize(None),
        FailureCause::HttpRequestUriInvalid => Error::HttpRequestUriInvalid,
        FailureCause::HttpResponseBodySize => Error::HttpResponseBodySize(None),
        FailureCause::HttpResponseTimeout => Error::HttpResponseTimeout,
        FailureCause::InternalError => Error::InternalError(Some(text)),
    }
}

/// A call's error as the interface has it (components, section 2.2).
pub(super) fn error_of(error: CallError) -> Error {
    match error {
        CallError::NoLink { .. } | CallError::NotLinked { .. } => Error::ConfigurationError,
        CallError::NotInForce { .. } => Error::HttpRequestDenied,
        error if error.is_forbidden() => Error::HttpRequestDenied,
        CallError::NoResponders { .. } => Error::DestinationUnavailable,
        CallError::TimedOut { .. } | CallError::Deadline { .. } => Error::HttpResponseTimeout,
        CallError::OutcomeUnknown { .. } => Error::HttpResponseIncomplete,
        CallError::NotAdmitted { .. } => Error::ConnectionLimitReached,
        CallError::TooLarge { bytes_max, .. } => Error::HttpRequestBodySize(Some(bytes_max)),
        CallError::TooDeep => Error::LoopDetected,
        other => Error::InternalError(Some(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_lattice_is_a_code() {
        let text = String::new;
        for (error, expected) in [
            (
                CallError::NoLink {
                    namespace: text(),
                    lattice: text(),
                    actor_id: text(),
                    link_name: text(),
                },
                "configuration-error",
            ),
            (CallError::NoCapability { contract: text(), actor_id: text() }, "HTTP-request-denied"),
            (CallError::Denied { request_id: text(), message: None }, "HTTP-request-denied"),
            (CallError::NotInForce { id: text(), why: "" }, "HTTP-request-denied"),
            (
                CallError::NoResponders { subject: text(), lattice: text(), target: text() },
                "destination-unavailable",
            ),
            (
                CallError::TimedOut { subject: text(), lattice: text(), waited_ms: 1 },
                "HTTP-response-timeout",
            ),
            (CallError::Deadline { actor_id: text(), limit_ms: 1 }, "HTTP-response-timeout"),
            (
                CallError::OutcomeUnknown { operation: text(), target: text(), cause: text() },
                "HTTP-response-incomplete",
            ),
            (
                CallError::NotAdmitted { actor_id: text(), reason: text() },
                "connection-limit-reached",
            ),
            (CallError::TooLarge { cause: text(), bytes_max: 1 }, "HTTP-request-body-size"),
            (CallError::TooDeep, "loop-detected"),
            (CallError::Transport(text()), "internal-error"),
        ] {
            let shown = format!("{error:?}");
            assert_eq!(name_of(&error_of(error)), expected, "{shown}");
        }
        let large = error_of(CallError::TooLarge { cause: text(), bytes_max: 8 });
        assert!(matches!(large, Error::HttpRequestBodySize(Some(8))));
        let told = error_of(CallError::Callee("no such host".into()));
        assert!(matches!(told, Error::InternalError(Some(text)) if text == "no such host"));
    }

    #[test]
    fn a_code_that_a_guest_answers_with_is_told_by_its_name() {
        use p2::bindings::http::types::ErrorCode as Second;
        use p3::bindings::http::types::ErrorCode as Third;
        for (error, name) in [
            (wasmtime::Error::from(Second::HttpRequestDenied), "HTTP-request-denied"),
            (Third::HttpRequestBodySize(Some(9)).into(), "HTTP-request-body-size"),
            (Error::DnsTimeout.into(), "DNS-timeout"),
        ] {
            let told = told(&error);
            assert!(told.starts_with(&format!("wasi:http error: {name} (")), "{told}");
        }
        assert!(told(&wasmtime::format_err!("gone")).ends_with("no answer: gone"));
    }
}
