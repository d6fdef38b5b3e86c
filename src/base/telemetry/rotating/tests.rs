use tempfile::TempDir;

use super::*;

fn settings(dir: &TempDir, bytes_max: u64, files_max: u32) -> LogFile {
    LogFile { path: dir.path().join("host.log"), bytes_max, files_max }
}

/// Returns what the files say, the newest first.
fn files(settings: &LogFile) -> Vec<String> {
    let earlier = (1..10).map(|number| numbered(&settings.path, number));
    let all = std::iter::once(settings.path.clone()).chain(earlier);
    all.map_while(|path| fs::read_to_string(path).ok()).collect()
}

#[test]
fn whole_lines_are_taken_as_far_as_there_is_room() {
    for (bytes, room, taken, first) in [
        ("ab\ncd\n", 10, 6, 3),
        ("ab\ncd\n", 6, 6, 3),
        ("ab\ncd\n", 5, 3, 3),
        ("ab\ncd\n", 2, 0, 3),
        ("ab\ncd", 10, 3, 3),
        ("abcd", 10, 0, 4),
        ("\n", 0, 0, 1),
    ] {
        assert_eq!(lines_within(bytes.as_bytes(), room), taken, "{bytes:?} {room}");
        assert_eq!(end_of_line(bytes.as_bytes()), first, "{bytes:?}");
    }
}

#[test]
fn a_full_file_is_renamed_and_the_oldest_goes() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 8, 3);
    let mut file = Rotating::open(&settings).unwrap();
    for number in 0..7 {
        file.write_all(format!("n{number}\n").as_bytes()).unwrap();
    }
    assert_eq!(files(&settings), ["n6\n", "n4\nn5\n", "n2\nn3\n"]);
    file.write_all(b"a\nb\nc\nd\ne\nf\n").unwrap();
    assert_eq!(files(&settings), ["c\nd\ne\nf\n", "n6\na\nb\n", "n4\nn5\n"]);
}

#[test]
fn a_file_that_cannot_be_renamed_costs_one_earlier_file_and_not_one_for_each_try() {
    let dir = TempDir::new().unwrap();
    let path = settings(&dir, 8, 4).path;
    let earlier = [1, 2, 3].map(|number| numbered(&path, number));
    for (file, text) in [&path].into_iter().chain(&earlier).zip(["a", "b", "c", "d"]) {
        fs::write(file, text).unwrap();
    }
    let held = |from: &Path, to: &Path| match from == path {
        true => Err(ErrorKind::ResourceBusy.into()),
        false => rename(from, to),
    };
    for _ in 0..2 {
        assert_eq!(shift(&path, 4, held).unwrap_err().kind(), ErrorKind::ResourceBusy);
    }
    assert!(path.exists());
    shift(&path, 4, rename).unwrap();
    assert_eq!(earlier.map(|file| fs::read_to_string(file).unwrap()), ["a", "b", "c"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_mounted_by_itself_or_append_only_cannot_be_renamed() {
    use rustix::fs::StatxAttributes as Attributes;
    let none = Attributes::empty();
    for (of_file, of_directory, step) in [
        (none, none, None),
        (Attributes::COMPRESSED, Attributes::ENCRYPTED | Attributes::MOUNT_ROOT, None),
        (Attributes::MOUNT_ROOT, none, Some("mount its directory")),
        (Attributes::APPEND | Attributes::NODUMP, none, Some("chattr -a")),
        (none, Attributes::APPEND, Some("chattr -a")),
    ] {
        let why = why_fixed(of_file, of_directory);
        assert_eq!(why.is_some(), step.is_some(), "{why:?}");
        assert!(why.unwrap_or_default().ends_with(step.unwrap_or_default()), "{why:?}");
    }
}

#[test]
fn a_file_that_nobody_can_rename_grows_and_those_beside_it_are_let_alone() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 4, 2);
    let theirs = numbered(&settings.path, 2);
    fs::write(&theirs, "of logrotate").unwrap();
    let mut file = Rotating::open_as(&settings, Some("it is mounted by itself")).unwrap();
    file.write_all(b"one\ntwo\nthr").unwrap();
    file.write_all(b"ee\nfour\n").unwrap();
    assert_eq!(files(&settings), ["one\ntwo\nthree\nfour\n"]);
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "of logrotate");
    assert!(
        file.warning()
            .unwrap()
            .ends_with("host.log is never rotated by this host and grows: it is mounted by itself")
    );
    drop(file);
    assert_eq!(Rotating::open(&settings).unwrap().warning(), None);
}

#[test]
fn a_line_larger_than_a_file_is_whole_and_has_one_for_itself() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 4, 3);
    let mut file = Rotating::open(&settings).unwrap();
    file.write_all(b"a\nmuch too long\nb\n").unwrap();
    assert_eq!(files(&settings), ["b\n", "much too long\n", "a\n"]);
}

#[test]
fn a_restart_appends_and_counts_what_is_there() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 8, 3);
    Rotating::open(&settings).unwrap().write_all(b"one\n").unwrap();
    let mut again = Rotating::open(&settings).unwrap();
    again.write_all(b"two\n").unwrap();
    again.write_all(b"three\n").unwrap();
    assert_eq!(files(&settings), ["three\n", "one\ntwo\n"]);
}

#[test]
fn a_line_that_was_cut_off_is_ended_before_the_next() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 100, 3);
    fs::write(&settings.path, "cut o").unwrap();
    #[cfg(unix)]
    fs::set_permissions(&settings.path, std::os::unix::fs::PermissionsExt::from_mode(0o640))
        .unwrap();
    let mut file = Rotating::open(&settings).unwrap();
    file.write_all(b"whole\n").unwrap();
    assert_eq!(files(&settings), ["cut o\nwhole\n"]);
}

#[test]
fn fewer_files_than_before_are_kept_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let many = settings(&dir, 2, 5);
    Rotating::open(&many).unwrap().write_all(b"a\nb\nc\nd\ne\nf\n").unwrap();
    assert_eq!(files(&many).len(), 5);
    let few = LogFile { files_max: 2, ..many };
    drop(Rotating::open(&few).unwrap());
    assert_eq!(files(&few), ["f\n", "e\n"]);
}

#[test]
fn one_process_writes_a_file() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 100, 3);
    let first = Rotating::open(&settings).unwrap();
    let refused = Rotating::open(&settings).unwrap_err();
    assert!(refused.to_string().contains("another process"), "{refused}");
    drop(first);
    Rotating::open(&settings).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_is_for_its_owner_alone_and_keeps_what_was_given() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 8, 2);
    let mode = || fs::metadata(&settings.path).unwrap().permissions().mode() & 0o777;
    let mut file = Rotating::open(&settings).unwrap();
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&settings.path, Permissions::from_mode(0o640)).unwrap();
    file.write_all(b"first\nsecond\n").unwrap();
    assert_eq!((mode(), files(&settings).len()), (0o640, 2));
    drop(file);
    fs::set_permissions(&settings.path, Permissions::from_mode(0o666)).unwrap();
    let refused = Rotating::open(&settings).unwrap_err();
    assert!(refused.to_string().contains("chmod go-w"), "{refused}");
}

#[test]
fn what_cannot_be_opened_has_a_next_step() {
    let distrust = trusted::Distrust::Owner { path: "logs/a.log".into(), owner: 7, me: 8 };
    for (error, expected) in [
        (
            io::Error::from(ErrorKind::NotFound),
            "; make the directory logs, or set audit_log to another file",
        ),
        (
            io::Error::from(ErrorKind::PermissionDenied),
            "; let the user of this host write in logs, or set audit_log to another file",
        ),
        (
            io::Error::from(ErrorKind::StorageFull),
            "; make room in logs, or set audit_log to another file",
        ),
        (
            io::Error::new(ErrorKind::PermissionDenied, distrust),
            "chown 8 logs/a.log; or set audit_log to another file",
        ),
        (
            io::Error::other("another process writes it"),
            "another process writes it; set audit_log to another file",
        ),
        (
            io::Error::new(ErrorKind::PermissionDenied, "open it (os error 13)"),
            "open it; let the user of this host write in logs, or set audit_log to another file",
        ),
    ] {
        let told = with_next_step(&error, "audit_log", Path::new("logs/a.log"));
        assert!(told.ends_with(expected) && !told.contains("os error"), "{told}");
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = TempDir::new().unwrap();
    let missing = LogFile { path: dir.path().join("none/host.log"), ..settings(&dir, 9, 2) };
    let refused = Rotating::open(&missing).unwrap_err();
    assert!(refused.to_string().contains("create a file in"), "{refused}");
    let directory = LogFile { path: dir.path().to_owned(), ..settings(&dir, 9, 2) };
    assert!(Rotating::open(&directory).is_err());
}

/// The device that is always full stands for a disk that is.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_the_lines_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir, 100, 3);
    let mut file = Rotating::open(&settings).unwrap();
    file.write_all(b"before\n").unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = std::mem::replace(&mut file.current().unwrap().file, full);
    for _ in 0..3 {
        assert_eq!(file.write(b"lost\n").unwrap_err().kind(), ErrorKind::StorageFull);
    }
    assert!(file.has_failed);
    file.current().unwrap().file = good;
    file.write_all(b"after\n").unwrap();
    assert!(!file.has_failed);
    assert_eq!(files(&settings), ["before\nafter\n"]);
}

/// A disk that takes some bytes, in two pieces, and then none.
#[cfg(unix)]
#[test]
fn of_a_line_that_the_disk_takes_in_part_nothing_stays() {
    for (room, kept, file) in [
        (0, None, "before\n"),
        (3, None, "before\n"),
        (4, Some(4), "before\none\n"),
        (7, Some(4), "before\none\n"),
        (8, Some(8), "before\none\ntwo\n"),
    ] {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 100, 3);
        let mut log = Rotating::open(&settings).unwrap();
        log.write_all(b"before\n").unwrap();
        let mut left = room;
        let full = |file: &mut File, bytes: &[u8]| {
            let count = bytes.len().min(left).min(5);
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            left -= count;
            file.write(&bytes[..count])
        };
        let outcome = log.current().unwrap().append(b"one\ntwo\n", full);
        assert_eq!(outcome.as_ref().ok(), kept.as_ref(), "{room}: {outcome:?}");
        assert_eq!(files(&settings), [file], "{room}");
        log.write_all(b"after\n").unwrap();
        assert_eq!(files(&settings), [format!("{file}after\n")], "{room}");
        assert_eq!(log.current().unwrap().bytes, file.len() as u64 + 6, "{room}");
    }
}

/// Somebody else took the directory away, and gives it back.
#[test]
fn a_directory_that_is_gone_is_tried_again_with_the_next_line() {
    let dir = TempDir::new().unwrap();
    let settings = LogFile { path: dir.path().join("logs/host.log"), ..settings(&dir, 4, 2) };
    fs::create_dir(dir.path().join("logs")).unwrap();
    let mut file = Rotating::open(&settings).unwrap();
    file.write_all(b"abc\n").unwrap();
    fs::remove_dir_all(dir.path().join("logs")).unwrap();
    assert!(file.write_all(b"lost\n").is_err());
    fs::create_dir(dir.path().join("logs")).unwrap();
    file.write_all(b"new\n").unwrap();
    assert_eq!(files(&settings), ["new\n"]);
}
