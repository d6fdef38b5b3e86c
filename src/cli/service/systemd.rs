//! A unit of systemd.
//!
//! Words of a command line and variables are in quotes. In them systemd reads backslashes, quotes,
//! `%` and, of a command line, `$`, so these are doubled or have a backslash in front, and control
//! characters are written as their bytes. Other values are read to the end of their line, without
//! quotes: what cannot stand there is refused.

use lattice_client::drain::DRAIN_WAIT;

use super::{
    Argument, DESCRIPTION, Definition, MARK, NAME, Scope, TextError, definition::SecretVariables,
};
use crate::{args::EXIT_CONFIG, command::serve::READY_WAIT};

/// How long a host may take to be ready; it waits for its NATS server. The manager begins anew
/// then, so that a boot does not wait for ever.
const START_SECONDS: u64 = 300;
/// How long a host may be silent.
const WATCHDOG_SECONDS: u64 = 30;
/// The time that a stop takes beside the host's own: last events, and providers.
const STOP_MARGIN_SECONDS: u64 = 15;
/// Sockets, files and mappings of a large host.
const FILES_MAX: u32 = 524_288;

/// Limits of a service of a user, which has no rights to take more away.
const HARDENING_USER: &[&str] = &[
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
];
/// Limits of a service of the system. `MemoryDenyWriteExecute` is not among them: actors are
/// compiled to machine code while the host runs. `ProcSubset` is not, either: the host asks the
/// machine's memory. Ports below 1024 are the one right that pages need.
const HARDENING_SYSTEM: &[&str] = &[
    "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "RemoveIPC=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
];

/// Returns the text of a unit.
pub fn unit(definition: &Definition) -> Result<String, TextError> {
    let is_system = definition.scope == Scope::System;
    let mut lines = vec![format!("# {MARK}"), "[Unit]".to_owned()];
    lines.push(format!("Description={DESCRIPTION}"));
    if is_system {
        lines.push("Wants=network-online.target".to_owned());
        lines.push("After=network-online.target nats-server.service".to_owned());
    }
    lines.extend([String::new(), "[Service]".to_owned()]);
    lines.extend(process(definition)?);
    lines.extend(place(definition)?);
    // Behind those of the place: the last one of a name counts.
    for (name, value) in &definition.environment {
        lines.push(format!("Environment={}", quoted(&format!("{name}={value}"))));
    }
    if let Some(SecretVariables { file, .. }) = &definition.secret {
        lines.push(format!("EnvironmentFile={}", plain("file", file)?));
    }
    let hardening = if is_system { HARDENING_SYSTEM } else { HARDENING_USER };
    lines.extend(hardening.iter().map(|line| (*line).to_owned()));
    let target = if is_system { "multi-user.target" } else { "default.target" };
    lines.extend([String::new(), "[Install]".to_owned(), format!("WantedBy={target}")]);
    Ok(lines.join("\n") + "\n")
}

/// Returns the text of the file with the variables that others must not read. In quotes, systemd
/// reads four characters of such a file as more than themselves.
pub fn environment_file(secret: &SecretVariables) -> String {
    let mut text = format!("# {MARK}\n");
    for (name, value) in &secret.variables {
        text.push_str(&format!("{name}=\""));
        for character in value.chars() {
            if matches!(character, '"' | '\\' | '$' | '`') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push_str("\"\n");
    }
    text
}

/// Returns how the process is started, watched and stopped.
fn process(definition: &Definition) -> Result<Vec<String>, TextError> {
    let mut command = vec![program(&definition.program)?];
    command.extend(definition.arguments.iter().map(argument));
    let mut lines = vec![
        // Only the host speaks to the manager, no provider.
        "Type=notify".to_owned(),
        "NotifyAccess=main".to_owned(),
        format!("ExecStart={}", command.join(" ")),
        "ExecReload=/bin/kill -HUP $MAINPID".to_owned(),
        "Restart=on-failure".to_owned(),
        "RestartSec=5".to_owned(),
        // Wrong settings are no better after five seconds.
        format!("RestartPreventExitStatus={EXIT_CONFIG}"),
        format!("TimeoutStartSec={START_SECONDS}"),
        format!("TimeoutStopSec={}", stop_seconds(definition)),
        format!("WatchdogSec={WATCHDOG_SECONDS}"),
        // The host stops its providers in order; what is left is killed after it.
        "KillMode=mixed".to_owned(),
        // A provider that takes too much memory does not take the host along.
        "OOMPolicy=continue".to_owned(),
        format!("LimitNOFILE={FILES_MAX}"),
        "UMask=0077".to_owned(),
    ];
    if definition.drains {
        lines.push("KillSignal=SIGUSR2".to_owned());
        lines.push("RestartKillSignal=SIGTERM".to_owned());
    }
    Ok(lines)
}

/// Returns how long a stop may take until the host is killed.
fn stop_seconds(definition: &Definition) -> u64 {
    let drain = if definition.drains { (READY_WAIT + DRAIN_WAIT).as_secs() } else { 0 };
    drain + definition.shutdown_timeout.as_secs() + STOP_MARGIN_SECONDS
}

/// Returns where the host runs, as whom, and with which files.
fn place(definition: &Definition) -> Result<Vec<String>, TextError> {
    let mut lines = vec![format!("CacheDirectory={NAME}"), "CacheDirectoryMode=0700".to_owned()];
    let directory = match &definition.directory {
        Some(directory) => plain("directory", directory)?,
        None => format!("%S/{NAME}"),
    };
    lines.push(format!("WorkingDirectory={directory}"));
    if definition.scope == Scope::User {
        // The files of the user are where commands of the user look for them, so there is no
        // StateDirectory: systemd before 254 puts it elsewhere.
        return Ok(lines);
    }
    match &definition.run_as {
        Some(user) => lines.push(format!("User={user}")),
        None => lines.push("DynamicUser=yes".to_owned()),
    }
    lines.push(format!("StateDirectory={NAME}"));
    lines.push("StateDirectoryMode=0700".to_owned());
    lines.push(format!("Environment=\"HOME=%S/{NAME}\""));
    for variable in ["XDG_STATE_HOME=%S", "XDG_DATA_HOME=%S", "XDG_CACHE_HOME=%C"] {
        lines.push(format!("Environment=\"{variable}\""));
    }
    for argument in &definition.arguments {
        if let Argument::Credential { name, file, .. } = argument {
            lines.push(format!("LoadCredential={name}:{}", plain("file", file)?));
        }
    }
    for path in definition.writable.iter().chain(&definition.directory) {
        lines.push(format!("ReadWritePaths=\"-{}\"", listed(path)?));
    }
    Ok(lines)
}

/// Returns the program for a command line. Nothing in it is replaced by variables, but a sign in
/// front of it would mean something.
fn program(path: &str) -> Result<String, TextError> {
    if !path.starts_with('/') {
        return Err(TextError::NotAbsolute { what: "program", value: path.to_owned() });
    }
    Ok(quoted(path))
}

/// Returns a word for a command line.
fn argument(argument: &Argument) -> String {
    match argument {
        Argument::Text(text) => quoted(text).replace('$', "$$"),
        Argument::Credential { flag, name, .. } => {
            format!("\"--{flag}=${{CREDENTIALS_DIRECTORY}}/{name}\"")
        }
    }
}

/// Returns a text in quotes that means itself.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '\\' | '"' => quoted.extend(['\\', character]),
            '%' => quoted.push_str("%%"),
            _ if character.is_control() => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    quoted.push_str(&format!("\\x{byte:02x}"));
                }
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns a path for a value that is read to the end of its line.
fn plain(what: &'static str, path: &str) -> Result<String, TextError> {
    if !path.starts_with('/') {
        return Err(TextError::NotAbsolute { what, value: path.to_owned() });
    }
    // At the end, a blank is dropped and a backslash goes on with the next line.
    let ends_badly = path.ends_with(|c: char| c.is_whitespace() || c == '\\');
    if ends_badly || path.contains(char::is_control) {
        return Err(TextError::character(what, path));
    }
    Ok(path.replace('%', "%%"))
}

/// Returns a path for a list of paths in quotes, where a backslash means itself.
fn listed(path: &str) -> Result<String, TextError> {
    if path.contains(['"', '\\']) {
        return Err(TextError::character("directory", path));
    }
    plain("directory", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, time::Duration};

    /// The unit of packages.
    const PACKAGED: &str = include_str!("../../../packaging/systemd/host.service");
    /// The lines in which the unit of packages is meant to be another one: values of `install`,
    /// then those of the package.
    const DIFFERENCES: &[(&str, &[&str], &[&str])] = &[
        ("Description", &[DESCRIPTION], &["Lattice host: signed WebAssembly actors over NATS"]),
        ("Documentation", &[], &["man:lattice-host(1)"]),
        // It has its settings in a file that people edit, and no flags.
        (
            "ExecStart",
            &["\"/usr/local/bin/host\" \"foreground\" \"--js-domain=core\""],
            &["/usr/bin/lattice-host foreground"],
        ),
        ("EnvironmentFile", &[], &["-/etc/lattice-host/host.env"]),
        (
            "Environment",
            &["HOME=%S/lattice-host", "XDG_CACHE_HOME=%C", "XDG_DATA_HOME=%S", "XDG_STATE_HOME=%S"],
            &[
                "HOME=/var/lib/lattice-host",
                "XDG_CACHE_HOME=/var/cache",
                "XDG_DATA_HOME=/var/lib",
                "XDG_STATE_HOME=/var/lib",
            ],
        ),
        // Its user stays, and owns files in /etc.
        ("DynamicUser", &["yes"], &[]),
        ("User", &[], &["lattice-host"]),
        ("Group", &[], &["lattice-host"]),
        // A drop-in that lets it drain needs no further line for the time.
        ("TimeoutStopSec", &["25"], &["95"]),
    ];

    fn definition(scope: Scope) -> Definition {
        Definition {
            scope,
            program: "/usr/local/bin/host".into(),
            arguments: vec![
                Argument::Text("foreground".into()),
                Argument::Text("--js-domain=core".into()),
            ],
            environment: Vec::new(),
            secret: None,
            directory: None,
            run_as: None,
            writable: Vec::new(),
            drains: false,
            shutdown_timeout: Duration::from_secs(10),
            log: String::new(),
        }
    }

    fn lines(definition: &Definition) -> Vec<String> {
        unit(definition).unwrap().lines().map(str::to_owned).collect()
    }

    fn has(definition: &Definition, line: &str) -> bool {
        lines(definition).iter().any(|has| has == line)
    }

    #[test]
    fn a_unit_is_ready_when_the_host_is_and_is_watched_and_reloaded() {
        for scope in [Scope::User, Scope::System] {
            let definition = definition(scope);
            for line in [
                "Type=notify",
                "NotifyAccess=main",
                "ExecStart=\"/usr/local/bin/host\" \"foreground\" \"--js-domain=core\"",
                "ExecReload=/bin/kill -HUP $MAINPID",
                "WatchdogSec=30",
                "KillMode=mixed",
                "TimeoutStopSec=25",
                "RestartPreventExitStatus=64",
                "NoNewPrivileges=yes",
                "CacheDirectory=lattice-host",
            ] {
                assert!(has(&definition, line), "{line} in {:#?}", lines(&definition));
            }
            assert!(!lines(&definition).iter().any(|line| line.contains("MemoryDenyWriteExecute")));
        }
        assert!(has(&definition(Scope::User), "WantedBy=default.target"));
        let system = definition(Scope::System);
        for line in ["WantedBy=multi-user.target", "DynamicUser=yes", "StateDirectory=lattice-host"]
        {
            assert!(has(&system, line), "{line}");
        }
        let own = Definition { run_as: Some("lattice".into()), ..system };
        assert!(has(&own, "User=lattice") && !has(&own, "DynamicUser=yes"));
    }

    #[test]
    fn a_service_may_write_in_its_directory_and_beside_it() {
        let own = Definition {
            run_as: Some("lattice".into()),
            directory: Some("/srv/lattice".into()),
            writable: vec!["/var/log/a b".into()],
            ..definition(Scope::System)
        };
        assert!(has(&own, "ReadWritePaths=\"-/var/log/a b\""), "{:#?}", lines(&own));
        assert!(has(&own, "ReadWritePaths=\"-/srv/lattice\""), "{:#?}", lines(&own));
    }

    /// Returns the values of each name in a unit, sorted. Times are in seconds, and a line of
    /// several variables is as many.
    fn settings(unit: &str) -> BTreeMap<&str, Vec<String>> {
        let mut settings: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let lines = unit.lines().filter(|line| !line.starts_with(['#', '[']));
        for (name, value) in lines.filter_map(|line| line.split_once('=')) {
            let values = settings.entry(name).or_default();
            match name {
                "Environment" => {
                    values.extend(value.split(' ').map(|word| word.trim_matches('"').to_owned()));
                }
                _ if name.ends_with("Sec") => values.push(value.trim_end_matches('s').to_owned()),
                _ => values.push(value.to_owned()),
            }
        }
        settings.values_mut().for_each(|values| values.sort());
        settings
    }

    #[test]
    fn the_unit_of_packages_is_that_of_install_but_for_what_is_meant_to_differ() {
        let unit = unit(&definition(Scope::System)).unwrap();
        let (ours, packaged) = (settings(&unit), settings(PACKAGED));
        let none = Vec::new();
        let mut names: Vec<&str> = ours.keys().chain(packaged.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let own = ours.get(name).unwrap_or(&none);
            let other = packaged.get(name).unwrap_or(&none);
            match DIFFERENCES.iter().find(|(known, ..)| *known == name) {
                Some((_, expected, of_package)) => {
                    assert_eq!(own, expected, "{name} of install");
                    assert_eq!(other, of_package, "{name} of packages");
                }
                None => assert_eq!(own, other, "{name}: install, then packages"),
            }
        }
    }

    #[test]
    fn variables_that_others_must_not_read_are_in_a_file_of_their_own() {
        let secret = SecretVariables {
            file: "/etc/lattice-host/50%.env".into(),
            variables: vec![
                ("OTEL_EXPORTER_OTLP_HEADERS".into(), "authorization=Bearer x".into()),
                ("A_TOKEN".into(), "a\"b\\c$d`e #f'\ng".into()),
            ],
        };
        let text = environment_file(&secret);
        let expected = "OTEL_EXPORTER_OTLP_HEADERS=\"authorization=Bearer x\"\n\
                        A_TOKEN=\"a\\\"b\\\\c\\$d\\`e #f'\ng\"\n";
        assert_eq!(text.strip_prefix(&format!("# {MARK}\n")), Some(expected));
        let definition = Definition { secret: Some(secret), ..definition(Scope::System) };
        assert!(has(&definition, "EnvironmentFile=/etc/lattice-host/50%%.env"));
        assert!(!unit(&definition).unwrap().contains("Bearer"));
    }

    #[test]
    fn a_stop_that_drains_has_the_time_for_it() {
        let drains = Definition { drains: true, ..definition(Scope::User) };
        for line in ["KillSignal=SIGUSR2", "RestartKillSignal=SIGTERM", "TimeoutStopSec=95"] {
            assert!(has(&drains, line), "{line}");
        }
    }

    #[test]
    fn what_a_user_gives_means_itself_and_begins_no_line() {
        for (text, expected) in [
            ("a b", r#""a b""#),
            ("a\"b'c", r#""a\"b'c""#),
            (r"a\nb", r#""a\\nb""#),
            ("50%h", r#""50%%h""#),
            ("a\nExecStartPre=/bin/evil", r#""a\x0aExecStartPre=/bin/evil""#),
            ("a\r\tb\u{85}", r#""a\x0d\x09b\xc2\x85""#),
            (";", r#"";""#),
            ("", r#""""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(argument(&Argument::Text("$HOME".into())), r#""$$HOME""#);
        assert_eq!(program("/opt/a $b/host").unwrap(), r#""/opt/a $b/host""#);
        assert!(program("@/bin/host").is_err() && program("host").is_err());
        let evil = Definition {
            environment: vec![("A".into(), "\"x\nExecStop=/bin/evil\" \"B=$C".into())],
            ..definition(Scope::User)
        };
        let line = r#"Environment="A=\"x\x0aExecStop=/bin/evil\" \"B=$C""#;
        assert!(has(&evil, line), "{:#?}", lines(&evil));
    }

    #[test]
    fn a_path_that_a_line_cannot_hold_is_refused() {
        for (path, expected) in [
            ("/var/a b", Some("/var/a b")),
            ("/var/50%", Some("/var/50%%")),
            ("relative", None),
            ("/a\nUser=root", None),
            ("/a\\", None),
            ("/a ", None),
        ] {
            assert_eq!(plain("directory", path).ok().as_deref(), expected, "{path:?}");
        }
        assert!(listed("/a\"b").is_err() && listed("/a\\b").is_err() && listed("/a b").is_ok());
    }

    #[test]
    fn secrets_are_handed_over_by_the_manager() {
        let handed = Argument::Credential {
            flag: "cluster-seed-file".into(),
            name: "cluster_seed_file",
            file: "/etc/a b".into(),
        };
        let mut definition = definition(Scope::System);
        definition.arguments.push(handed);
        assert!(has(&definition, "LoadCredential=cluster_seed_file:/etc/a b"));
        let word = "\"--cluster-seed-file=${CREDENTIALS_DIRECTORY}/cluster_seed_file\"";
        assert!(lines(&definition).iter().any(|line| line.ends_with(word)));
    }
}
