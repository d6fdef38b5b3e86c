use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use provider_archive::ProviderArchive;
use wascap::prelude::KeyPair;

use super::*;
use lattice_protocol::identity::{
    claims::now,
    keys::Kind,
    samples::{ACCOUNT, ACTOR, PROVIDER},
    sign::{ProviderToken, Term},
    signature::SigningKey,
    token::encode_json,
};

const PROGRAM: &[u8] = b"\x7fELF, as good as any";
const TARGET: &str = "x86_64-linux";

/// Returns an archive as the real packer writes it, for two targets.
async fn packed(compressed: bool) -> Vec<u8> {
    let mut archive = ProviderArchive::new(
        "wasmcloud:keyvalue",
        "Sample",
        "Vendor",
        Some(3),
        Some("0.1.0".into()),
    );
    archive.add_library(TARGET, PROGRAM).unwrap();
    archive.add_library("aarch64-macos", b"another program").unwrap();
    archive.set_schema(serde_json::json!({"type": "object"})).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (account, provider) =
        (KeyPair::from_seed(ACCOUNT.seed).unwrap(), KeyPair::from_seed(PROVIDER.seed).unwrap());
    archive.write(dir.path().join("sample.par"), &account, &provider, compressed).await.unwrap();
    std::fs::read(dir.path().join(if compressed { "sample.par.gz" } else { "sample.par" })).unwrap()
}

fn token(hashes: &str) -> String {
    token_about(PROVIDER.public, hashes, &SigningKey::from_seed(ACCOUNT.seed).unwrap())
}

fn token_about(subject: &str, hashes: &str, issuer: &SigningKey) -> String {
    let json = format!(
        r#"{{"jti":"","iat":7,"iss":"{}","sub":"{subject}","wascap":{{"name":"n","capid":"c","vendor":"v","target_hashes":{hashes}}}}}"#,
        issuer.public_key()
    );
    encode_json(json.as_bytes(), issuer)
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        // The library refuses to write the names this is about.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An archive of our own with these executables, whose claims hold the hash of [`PROGRAM`].
fn own(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let token =
        token(&format!(r#"{{"{TARGET}":"{}"}}"#, hex_upper(&sha256(PROGRAM)).to_lowercase()));
    let mut all: Vec<(&str, &[u8])> = vec![(CLAIMS_FILE, token.as_bytes())];
    all.extend(entries);
    tar(&all)
}

#[tokio::test]
async fn archives_of_the_real_packer_are_read_plain_and_compressed() {
    for compressed in [false, true] {
        let archive = Archive::read(&packed(compressed).await, TARGET, now()).unwrap();
        assert_eq!(archive.executable, PROGRAM);
        assert_eq!(archive.hash, sha256(PROGRAM));
        assert_eq!(
            archive.targets.iter().map(String::as_str).collect::<Vec<_>>(),
            ["aarch64-macos", TARGET]
        );
        assert_eq!(archive.claims.subject, PROVIDER.public);
        assert_eq!(archive.claims.contract_id, "wasmcloud:keyvalue");
        assert_eq!(archive.claims.config_schema.as_deref(), Some(r#"{"type":"object"}"#));
    }
}

#[tokio::test]
async fn a_missing_target_names_those_there_are() {
    let error = Archive::read(&packed(true).await, "arm-linux", now()).err().unwrap();
    assert!(matches!(error, ArchiveError::NoTarget { .. }));
    let text = error.to_string();
    assert!(text.contains("(arm-linux), only for aarch64-macos, x86_64-linux;"), "{text}");
}

#[test]
fn archives_made_by_hand_are_read_too() {
    let archive = own(&[("./README", b"hello"), ("./bin/x86_64-linux.bin", PROGRAM)]);
    assert_eq!(Archive::read(&archive, TARGET, 7).unwrap().executable, PROGRAM);
}

#[tokio::test]
async fn a_changed_byte_anywhere_in_program_or_claims_is_found() {
    let bytes = packed(false).await;
    let find = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
    let changed = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        Archive::read(&bytes, TARGET, now()).err().unwrap()
    };
    let error = changed(find(PROGRAM) + 3);
    assert!(
        matches!(&error, ArchiveError::HashMismatch { target, .. } if target == TARGET),
        "{error}"
    );
    let error = changed(find(b"eyJ") + 300);
    assert!(matches!(error, ArchiveError::Claims(_)), "{error}");
}

#[test]
fn an_archive_nobody_vouches_for_is_refused() {
    let error = Archive::read(&tar(&[("x86_64-linux.bin", PROGRAM)]), TARGET, 7).err().unwrap();
    assert!(matches!(error, ArchiveError::NoClaims), "{error}");
    let unlisted = tar(&[(CLAIMS_FILE, token("{}").as_bytes()), ("x86_64-linux.bin", PROGRAM)]);
    let error = Archive::read(&unlisted, TARGET, 7).err().unwrap();
    assert!(matches!(error, ArchiveError::NoHash(_)), "{error}");
}

#[test]
fn the_claims_are_verified_before_a_program_is_read() {
    let mut forged = token(&format!(r#"{{"{TARGET}":"00"}}"#));
    forged.replace_range(forged.len() - 4.., "AAAA");
    // Both would be refused by the reader of the program: its hash is another one.
    for (claims, hash_is_claimed) in [(forged, true), (token("{}"), false)] {
        let bytes = tar(&[("x86_64-linux.bin", PROGRAM), (CLAIMS_FILE, claims.as_bytes())]);
        match Archive::read(&bytes, TARGET, 7).err().unwrap() {
            ArchiveError::Claims(_) => assert!(hash_is_claimed),
            ArchiveError::NoHash(_) => assert!(!hash_is_claimed),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn claims_of_other_kinds_and_sizes_are_refused() {
    let hashes = format!(r#"{{"{TARGET}":"{}"}}"#, hex_upper(&sha256(PROGRAM)));
    let (user, _) = SigningKey::generate(Kind::User).unwrap();
    let account = SigningKey::from_seed(ACCOUNT.seed).unwrap();
    for token in
        [token_about(ACTOR.public, &hashes, &account), token_about(PROVIDER.public, &hashes, &user)]
    {
        let bytes = tar(&[(CLAIMS_FILE, token.as_bytes()), ("x86_64-linux.bin", PROGRAM)]);
        let error = Archive::read(&bytes, TARGET, 7).err().unwrap();
        assert!(matches!(error, ArchiveError::Claims(_)), "{error}");
    }
    let large = tar(&[(CLAIMS_FILE, &vec![b'x'; 2 << 20])]);
    let error = Archive::read(&large, TARGET, 7).err().unwrap();
    assert!(matches!(error, ArchiveError::TooLarge { what: "claims", .. }), "{error}");
    let many: Vec<(&str, &[u8])> = vec![("readme.txt", b""); ENTRIES_MAX * 2];
    assert!(matches!(Archive::read(&own(&many), TARGET, 7), Err(ArchiveError::TooManyEntries)));
}

#[test]
fn links_are_no_executables() {
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        let mut builder = tar::Builder::new(own(&[]));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, "x86_64-linux.bin", "/bin/sh").unwrap();
        // The end of the first archive is cut off, or nothing after it would be read.
        let bytes = builder.into_inner().unwrap();
        let claims_end = own(&[]).len() - 1024;
        let bytes = [&bytes[..claims_end], &bytes[claims_end + 1024..]].concat();
        let error = Archive::read(&bytes, TARGET, 7).err().unwrap();
        assert!(matches!(error, ArchiveError::NoTarget { .. }), "{error}");
    }
}

#[test]
fn what_readers_could_understand_differently_is_refused() {
    for odd in ["../x86_64-linux.bin", "/etc/x86_64-linux.bin", "C:\\x86_64-linux.bin"] {
        let error = Archive::read(&own(&[(odd, PROGRAM)]), TARGET, 7).err().unwrap();
        assert!(matches!(error, ArchiveError::OddPath(_)), "{odd}: {error}");
    }
    let twice = own(&[("x86_64-linux.bin", PROGRAM), ("b/x86_64-linux.bin", b"other")]);
    assert!(matches!(Archive::read(&twice, TARGET, 7), Err(ArchiveError::Duplicate(_))));
    let twice = own(&[(CLAIMS_FILE, b"other")]);
    assert!(matches!(Archive::read(&twice, TARGET, 7), Err(ArchiveError::Duplicate(_))));
}

#[tokio::test]
async fn other_files_and_broken_ones_are_told_apart() {
    assert!(matches!(Archive::read(b"", TARGET, 7), Err(ArchiveError::Empty)));
    assert!(matches!(Archive::read(b"\0asm\x01\0\0\0", TARGET, 7), Err(ArchiveError::Actor)));
    let error = Archive::read(&[b'x'; 2000], TARGET, 7).err().unwrap();
    assert!(matches!(error, ArchiveError::Unreadable(_)), "{error}");
    for bytes in [packed(false).await, packed(true).await] {
        // Cut anywhere, it is an error and never half a program.
        for length in (1..bytes.len()).step_by(97) {
            if let Ok(archive) = Archive::read(&bytes[..length], TARGET, now()) {
                assert_eq!(archive.executable, PROGRAM, "{length} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn a_bomb_is_refused_before_it_takes_memory() {
    // A header that claims a terabyte.
    let mut header = tar::Header::new_gnu();
    header.set_path("x86_64-linux.bin").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let mut huge = own(&[]);
    huge.truncate(huge.len() - 1024);
    huge.extend(header.as_bytes());
    let error = Archive::read(&huge, TARGET, 7).err().unwrap();
    assert!(matches!(error, ArchiveError::TooLarge { what: "executable", .. }), "{error}");

    // The bound on everything, with a bound that a test reaches.
    let mut zip = GzEncoder::new(Vec::new(), Compression::best());
    zip.write_all(&vec![0; 1 << 20]).unwrap();
    let zip = zip.finish().unwrap();
    let mut bounded = Bounded { inner: GzDecoder::new(&zip[..]), left: 4096 };
    let error = unreadable(io::copy(&mut bounded, &mut io::sink()).unwrap_err());
    assert!(matches!(error, ArchiveError::TooLarge { what: "all of it", .. }), "{error}");
}

/// A draft for one target.
fn draft() -> Draft {
    let mut draft = Draft::new(ProviderToken {
        name: "Sample".into(),
        contract_id: "wasmcloud:keyvalue".into(),
        vendor: "Vendor".into(),
        revision: Some(3),
        version: Some("0.1.0".into()),
        config_schema: Some(r#"{"type":"object"}"#.into()),
        ..ProviderToken::default()
    });
    assert!(!draft.insert(TARGET, PROGRAM.to_vec()).unwrap());
    draft
}

fn keys() -> (SigningKey, SigningKey) {
    (SigningKey::from_seed(PROVIDER.seed).unwrap(), SigningKey::from_seed(ACCOUNT.seed).unwrap())
}

fn write(draft: &Draft, compress: bool) -> Vec<u8> {
    let (subject, issuer) = keys();
    draft.write(&subject, &issuer, &Term::default(), compress).unwrap()
}

#[tokio::test]
async fn what_is_written_is_read_by_the_real_library_and_here() {
    for compressed in [false, true] {
        let bytes = write(&draft(), compressed);
        assert_eq!(Archive::is_compressed(&bytes), compressed);
        let theirs = ProviderArchive::try_load(&bytes).await.unwrap();
        assert_eq!(theirs.targets(), [TARGET]);
        assert_eq!(theirs.target_bytes(TARGET).as_deref(), Some(PROGRAM));
        assert_eq!(theirs.schema(), Some(serde_json::json!({"type": "object"})));
        let claims = theirs.claims().unwrap();
        assert_eq!(
            (claims.subject.as_str(), claims.issuer.as_str()),
            (PROVIDER.public, ACCOUNT.public)
        );
        assert_eq!(claims.metadata.unwrap().rev, Some(3));
        let ours = Archive::read(&bytes, TARGET, now()).unwrap();
        assert_eq!((ours.executable.as_slice(), ours.claims.vendor.as_str()), (PROGRAM, "Vendor"));
    }
}

#[tokio::test]
async fn an_executable_is_added_to_an_archive_of_the_real_packer() {
    let (mut draft, claims) = Draft::read(&packed(true).await, now()).unwrap();
    assert_eq!(claims.subject, PROVIDER.public);
    assert!(!draft.insert("aarch64-linux", b"a third".to_vec()).unwrap());
    assert!(draft.insert(TARGET, b"a better one".to_vec()).unwrap());
    let bytes = write(&draft, false);
    let theirs = ProviderArchive::try_load(&bytes).await.unwrap();
    for (target, program) in [
        ("aarch64-linux", &b"a third"[..]),
        (TARGET, b"a better one"),
        ("aarch64-macos", b"another program"),
    ] {
        assert_eq!(theirs.target_bytes(target).as_deref(), Some(program), "{target}");
    }
    assert_eq!(theirs.schema(), Some(serde_json::json!({"type": "object"})));
    let ours = Archive::read(&bytes, "aarch64-linux", now()).unwrap().claims;
    assert_eq!(
        (ours.revision, ours.version, ours.contract_id),
        (Some(3), Some("0.1.0".into()), claims.contract_id)
    );
}

#[test]
fn the_same_draft_is_the_same_file() {
    let (subject, issuer) = keys();
    let term = Term { issued_at: 7, not_before: None, expires: None, is_reproducible: true };
    let write = || draft().write(&subject, &issuer, &term, true).unwrap();
    assert_eq!(write(), write());
}

#[tokio::test]
async fn what_no_host_could_start_is_not_packed() {
    let mut draft = draft();
    for target in ["", "linux", "claims", "../x-y", "a/b-c", "x86_64-linux.bin", &"a-".repeat(60)] {
        assert!(
            matches!(draft.insert(target, PROGRAM.to_vec()), Err(DraftError::Target(_))),
            "{target}"
        );
    }
    assert!(matches!(draft.insert(TARGET, Vec::new()), Err(DraftError::Empty(_))));
    assert!(matches!(draft.insert(TARGET, b"\0asm".to_vec()), Err(DraftError::Wasm(_))));
    let (subject, issuer) = keys();
    let nothing = Draft::new(draft.says.clone()).write(&subject, &issuer, &Term::default(), false);
    assert!(matches!(nothing, Err(DraftError::NoExecutables)));
    let swapped = draft.write(&issuer, &subject, &Term::default(), false);
    assert!(matches!(swapped, Err(DraftError::Sign(_))));

    // An archive that was changed since it was signed is not signed again.
    let mut bytes = packed(false).await;
    let at = bytes.windows(PROGRAM.len()).position(|window| window == PROGRAM).unwrap();
    bytes[at] ^= 1;
    assert!(matches!(Draft::read(&bytes, now()), Err(ArchiveError::HashMismatch { .. })));
}
