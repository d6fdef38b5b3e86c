//! How long a certificate counts. Of a certificate only its two times are read here; whether it is
//! trusted is the TLS library's question, when a connection is made.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Date, Month, PrimitiveDateTime, Time};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When a certificate counts, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub until: i64,
}

/// Reads the certificates of a PEM file; the error is for people.
pub fn read(path: &Path) -> Result<Vec<Validity>> {
    let all = CertificateDer::pem_file_iter(path)?;
    let all: Vec<CertificateDer<'static>> = all.collect::<Result<_, _>>()?;
    ensure!(!all.is_empty(), "it holds no PEM certificate");
    all.iter().map(|der| validity(der).context("a certificate in it cannot be read")).collect()
}

/// Whether a PEM file holds a private key; the error is for people.
pub fn check_key(path: &Path) -> Result<()> {
    PrivateKeyDer::from_pem_file(path)?;
    Ok(())
}

/// Walks to the two times of a certificate (RFC 5280, section 4.1).
fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate, _) = element(der)?;
    let (tag, mut rest, _) = element(certificate)?;
    if tag != SEQUENCE {
        return None;
    }
    // Version, serial number, algorithm, issuer.
    let (tag, _, after) = element(rest)?;
    if tag == EXPLICIT_VERSION {
        rest = after;
    }
    let (tag, _, after) = element(rest)?;
    if tag != INTEGER {
        return None;
    }
    let (_, _, after) = element(after)?;
    let (_, _, after) = element(after)?;
    let (tag, times, _) = element(after)?;
    if tag != SEQUENCE {
        return None;
    }
    let (tag, from, after) = element(times)?;
    let from = seconds(tag, from)?;
    let (tag, until, _) = element(after)?;
    Some(Validity { from, until: seconds(tag, until)? })
}

/// The first element: tag, content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let bytes = usize::from(*first & 0x7f);
        if bytes == 0 || bytes > 4 {
            return None;
        }
        let (length, rest) = rest.split_at_checked(bytes)?;
        (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `YYMMDDhhmmssZ`, or with four digits of the year.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let month = Month::try_from(two_digits(rest, 0)?).ok()?;
    let date = Date::from_calendar_date(year, month, two_digits(rest, 2)?).ok()?;
    let time =
        Time::from_hms(two_digits(rest, 4)?, two_digits(rest, 6)?, two_digits(rest, 8)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

fn two_digits(text: &str, at: usize) -> Option<u8> {
    text.get(at..at + 2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_certificate_are_read() {
        let (dir, keys) = (tempfile::tempdir().unwrap(), rcgen::KeyPair::generate().unwrap());
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for (from, until, seconds) in [(2020, 2021, 1_609_459_200), (1999, 2055, 2_682_374_400)] {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            let path = dir.path().join("certificate.pem");
            std::fs::write(&path, params.self_signed(&keys).unwrap().pem()).unwrap();
            assert_eq!(read(&path).unwrap()[0].until, seconds, "{until}");
        }
        let key = dir.path().join("key.pem");
        std::fs::write(&key, keys.serialize_pem()).unwrap();
        assert!(check_key(&key).is_ok() && read(&key).is_err());
        std::fs::write(&key, "nothing").unwrap();
        assert!(check_key(&key).is_err() && read(&key).is_err());
    }

    #[test]
    fn nonsense_is_no_certificate() {
        for der in
            [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x03\x30\x01\x02", &[0x30; 64]]
        {
            assert_eq!(validity(der), None);
        }
    }
}
