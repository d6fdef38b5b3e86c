//! Tests of the meaning of contexts of each kind, and of the choice between them.

use std::time::Duration;

use super::*;
use lattice_base::config::{Auth, Config, Environment, Loaded, Sources};

/// A user with a home, and the directory they are in.
struct User {
    root: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { root: tempfile::tempdir().expect("create a directory") };
        fs::create_dir_all(user.dir()).expect("create the working directory");
        user
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("work")
    }

    fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// Writes a file below the home.
    fn file(self, path: &str, content: &str) -> Self {
        let path = self.home().join(path);
        fs::create_dir_all(path.parent().unwrap()).expect("create its directory");
        fs::write(&path, content).expect("write a file");
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("set its mode");
        self
    }

    fn host(self, name: &str, content: &str) -> Self {
        self.file(&format!(".config/lattice-host/contexts/{name}.json"), content)
    }

    fn wash(self, name: &str, content: &str) -> Self {
        self.file(&format!(".wash/contexts/{name}.json"), content)
    }

    fn nats(self, name: &str, content: &str) -> Self {
        self.file(&format!(".config/nats/context/{name}.json"), content)
    }

    fn dirs(&self) -> Dirs {
        Dirs::find(&Vec::<(String, String)>::new(), Some(&self.home()))
    }

    fn places(&self) -> Places {
        Places::of(&self.dirs(), Some(&self.home()))
    }

    fn chosen(&self, name: Option<&str>) -> Result<Option<Context>> {
        chosen(name, &self.dir(), &self.dirs(), Some(&self.home()))
    }

    /// The configuration that comes of a context and these variables.
    fn load(&self, name: Option<&str>, env: &[(&str, &str)]) -> Loaded {
        let env: Vec<(String, String)> =
            env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let sources = Sources {
            flags: Vec::new(),
            labels: Vec::new(),
            env: Box::new(env) as Box<dyn Environment>,
            dir: self.dir(),
            home: Some(self.home()),
            context: self.chosen(name).unwrap_or_else(|error| panic!("refused: {error:#}")),
        };
        Config::load(&sources).unwrap_or_else(|mistakes| panic!("refused:\n{mistakes}"))
    }

    fn config(&self, name: &str) -> Config {
        self.load(Some(name), &[]).config
    }

    /// The lattice that is used without a name.
    fn lattice(&self) -> String {
        self.load(None, &[]).config.lattice
    }
}

fn seed() -> String {
    nkeys::KeyPair::new_user().seed().expect("a new key has a seed")
}

/// As `wash` 0.26 writes it for `wash ctx new dev`.
const WASH_NEW: &str = r#"{"name":"dev","cluster_seed":"","ctl_host":"127.0.0.1","ctl_port":4222,"ctl_jwt":"","ctl_seed":"","ctl_credsfile":null,"ctl_timeout":2000,"lattice":"default","js_domain":null,"rpc_host":"127.0.0.1","rpc_port":4222,"rpc_jwt":"","rpc_seed":"","rpc_credsfile":null,"rpc_timeout":2000}"#;

#[test]
fn ours_are_settings_with_paths_of_where_they_are() {
    let user = User::new()
        .host("shop", r#"{"nats_host":"nats.shop.example","nats_creds":"shop.creds","nats_tls_ca":"~/ca.pem","js_domain":"core"}"#)
        .file(".config/lattice-host/contexts/shop.creds", "")
        .file("ca.pem", "");
    let config = user.config("shop");
    assert_eq!(config.ctl.servers, ["tls://nats.shop.example:4222"]);
    assert_eq!(config.rpc, config.ctl);
    assert_eq!(
        config.ctl.auth,
        Auth::Creds(user.home().join(".config/lattice-host/contexts/shop.creds"))
    );
    assert_eq!(config.ctl.tls.ca, Some(user.home().join("ca.pem")));
    assert_eq!(config.js_domain.as_deref(), Some("core"));
}

#[test]
fn those_of_wash_mean_what_wash_reads_in_them() {
    let seed = seed();
    let user = User::new().file("seed.nk", &format!("{seed}\n")).file("rpc.creds", "").wash(
        "dev",
        &WASH_NEW
            .replace(
                r#""ctl_host":"127.0.0.1","ctl_port":4222"#,
                r#""ctl_host":"tls://hub","ctl_port":5222"#,
            )
            .replace(r#""ctl_jwt":"""#, r#""ctl_jwt":"ey.ey.x""#)
            .replace(r#""ctl_seed":"""#, r#""ctl_seed":"~/seed.nk""#)
            .replace(r#""ctl_credsfile":null"#, r#""ctl_credsfile":"/gone.creds""#)
            .replace(r#""rpc_credsfile":null"#, r#""rpc_credsfile":"../../rpc.creds""#)
            .replace(r#""lattice":"default""#, r#""lattice_prefix":"prod""#)
            .replace(r#""ctl_timeout":2000"#, r#""ctl_timeout":7000"#),
    );
    let config = user.config("dev");
    assert_eq!(config.lattice, "prod");
    assert_eq!(config.ctl.servers, ["tls://hub:5222"]);
    assert!(
        matches!(&config.ctl.auth, Auth::JwtAndSeed { seed: read, .. } if *read == lattice_base::config::Secret::new(&*seed))
    );
    assert_eq!(config.rpc.servers, ["nats://127.0.0.1:4222"]);
    assert!(
        matches!(&config.rpc.auth, Auth::Creds(path) if path.ends_with("rpc.creds") && path.is_absolute())
    );
    assert_eq!(
        user.chosen(Some("dev")).unwrap().unwrap().timeout,
        Some(std::time::Duration::from_secs(7))
    );
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn a_context_of_wash_from_before_2023_is_read() {
    let old = r#"{"name":"old","cluster_seed":"","ctl_host":"127.0.0.1","ctl_port":5893,"ctl_jwt":"","ctl_seed":"","ctl_credsfile":null,"ctl_timeout":2000,"ctl_lattice_prefix":"years","rpc_host":"127.0.0.1","rpc_port":5893,"rpc_jwt":"","rpc_seed":"","rpc_credsfile":null,"rpc_timeout":2000,"rpc_lattice_prefix":"years"}"#;
    let config = User::new().wash("old", old).config("old");
    assert_eq!((config.lattice.as_str(), config.ctl.port, config.rpc.port), ("years", 5893, 5893));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn those_of_nats_are_servers_and_a_login() {
    let seed = seed();
    let user = User::new()
        .file("user.nk", &format!("-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"))
        .file("x.pem", "")
        .nats("one", r#"{"description":"","url":"tls://me:p%40ss@hub.example:4333","jetstream_domain":"core","creds":"","token":""}"#)
        .nats("several", r#"{"url":"nats://t0ken@a:4222, nats://t0ken@b","creds":""}"#)
        .nats("nkey", r#"{"url":"hub","nkey":"~/user.nk","ca":"~/x.pem","cert":"$HOME/x.pem","key":"${HOME}/x.pem"}"#)
        .nats("jwt", r#"{"nkey":"~/user.nk","user_jwt":"ey.ey.x","jetstream_api_prefix":"$JS.edge.API"}"#)
        .nats("word", r#"{"url":"nats://[::1]:4333","user":"t0ken","password":""}"#);
    let config = user.config("one");
    assert_eq!((config.ctl.host_text.as_str(), config.ctl.port), ("hub.example", 4333));
    assert!(config.ctl.tls.required);
    assert!(
        matches!(&config.ctl.auth, Auth::User { user, password } if user == "me" && password.expose() == "p@ss")
    );
    assert_eq!((config.js_domain.as_deref(), config.lattice.as_str()), (Some("core"), "default"));

    let config = user.config("several");
    assert_eq!(config.rpc.servers, ["nats://a:4222", "nats://b:4222"]);
    assert!(matches!(&config.rpc.auth, Auth::Token(token) if token.expose() == "t0ken"));

    let config = user.config("nkey");
    assert!(matches!(&config.ctl.auth, Auth::Nkey { seed: read } if read.expose() == seed));
    assert_eq!(config.ctl.tls.cert, Some(user.home().join("x.pem")));

    let config = user.config("jwt");
    assert_eq!(config.ctl.servers, ["nats://127.0.0.1:4222"]);
    assert!(matches!(&config.ctl.auth, Auth::JwtAndSeed { .. }));
    assert_eq!(config.js_domain.as_deref(), Some("edge"));

    let config = user.config("word");
    assert_eq!(config.ctl.servers, ["nats://[::1]:4333"]);
    assert!(matches!(&config.ctl.auth, Auth::Token(_)));
}

#[test]
fn what_has_no_effect_is_noted() {
    let user = User::new().nats(
        "n",
        "{\n\"url\":\"nats://a:b@one,nats://c:d@two\",\n\"inbox_prefix\":\"_ME\",\n\"tls_first\":true,\"socks_proxy\":\"x\"}",
    );
    let warnings = user.config("n").warnings.join("\n");
    for part in [
        "n.json:3: inbox_prefix",
        "tls_first",
        "socks_proxy",
        "n.json:2: the servers have different logins",
    ] {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
}

#[test]
fn mistakes_name_the_line_and_what_is_accepted_and_no_secret() {
    let user = User::new()
        .host("syntax", "{\n  \"nats_password\": \"hunter2\"\n  oops\n}")
        .host("value", "{\n\n  \"nats_port\": \"many\",\n \"nats_seed\": \"SUhunter2\"}")
        .wash("wash", "{\n  \"ctl_timeout\": 1,\n  \"rpc_port\": [1]\n}")
        .nats("nkey", "{\n\n\n  \"nkey\": \"gone.nk\"\n}");
    let refused = |name: &str| {
        let sources = |context| Sources {
            flags: Vec::new(),
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: user.dir(),
            home: None,
            context,
        };
        match user.chosen(Some(name)) {
            Ok(context) => Config::load(&sources(context)).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    for (name, parts) in [
        ("syntax", ["syntax.json:3", "line 3", "one JSON object"]),
        ("value", ["value.json:3", "nats_port", "1 to 65535"]),
        ("value", ["value.json:4", "nats_seed", "SU"]),
        ("wash", ["wash.json:3", "rpc_port", "an array"]),
        ("nkey", ["nkey.json:4", "gone.nk", "user seed"]),
    ] {
        let text = refused(name);
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_name_is_looked_for_in_ours_then_those_of_wash_then_those_of_nats() {
    let user = User::new()
        .nats("a", r#"{"jetstream_domain":"nats"}"#)
        .nats("b", r#"{"jetstream_domain":"nats"}"#)
        .wash("a", &WASH_NEW.replace("\"js_domain\":null", "\"js_domain\":\"wash\""));
    let domain = |user: &User, name: &str| user.config(name).js_domain.unwrap_or_default();
    assert_eq!(domain(&user, "a"), "wash");
    assert_eq!(domain(&user, "b"), "nats");
    assert_eq!(domain(&user, "nats:a"), "nats");
    let user = user.host("a", r#"{"js_domain":"ours"}"#);
    assert_eq!(
        ["a", "host:a", "wash:a", "nats:a"].map(|name| domain(&user, name)),
        ["ours", "ours", "wash", "nats"]
    );
    let shown: Vec<String> =
        user.places().all().iter().map(|found| user.places().short(found)).collect();
    assert_eq!(shown, ["a", "wash:a", "nats:a", "b"]);
}

#[test]
fn an_unknown_name_lists_what_there_is() {
    let none = User::new().chosen(Some("x")).unwrap_err();
    assert!(none.is::<Usage>() && none.to_string().contains("host ctx new"), "{none}");
    let user = User::new().host("shop", "{}").nats("edge", "{}");
    for word in ["x", "wash:shop", "../shop", ""] {
        let unknown = user.chosen(Some(word)).unwrap_err();
        assert!(unknown.is::<Usage>(), "{unknown}");
        assert!(
            unknown.to_string().contains("shop (") && unknown.to_string().contains("edge ("),
            "{unknown}"
        );
    }
}

#[test]
fn a_path_may_be_named_and_its_members_tell_whose_it_is() {
    let user = User::new();
    for (name, content) in [
        ("ours.json", r#"{"js_domain":"here"}"#),
        ("wash.json", r#"{"ctl_timeout":3000,"js_domain":"here"}"#),
        ("nats.json", r#"{"url":"nats://x","jetstream_domain":"here"}"#),
    ] {
        fs::write(user.dir().join(name), content).unwrap();
        assert_eq!(user.config(name).js_domain.as_deref(), Some("here"), "{name}");
        let absolute = user.dir().join(name).display().to_string();
        assert_eq!(user.config(&absolute).js_domain.as_deref(), Some("here"), "{name}");
    }
}

#[test]
fn without_a_name_the_directory_comes_first_and_then_the_context_in_use() {
    let user = User::new();
    assert!(user.chosen(None).unwrap().is_none());

    // `nats` knows no lattices; the file tells which it was.
    let user =
        user.nats("edge", r#"{"jetstream_domain":"x"}"#).file(".config/nats/context.txt", "edge\n");
    assert!(user.chosen(None).unwrap().unwrap().path.ends_with("nats/context/edge.json"));

    let user = user.wash("host_config", WASH_NEW).file(".wash/contexts/default", "host_config");
    assert!(
        user.chosen(None).unwrap().unwrap().path.ends_with("edge.json"),
        "an untouched default says nothing"
    );

    let user = user
        .wash("dev", &WASH_NEW.replace("\"default\"", "\"of-wash\""))
        .file(".wash/contexts/default", "dev");
    assert_eq!(user.lattice(), "of-wash");

    let user = user.host("shop", r#"{"lattice_prefix":"of-ours"}"#);
    assert_eq!(user.lattice(), "of-wash", "a context that is not in use has no effect");
    user.places().make_default(&user.places().find("shop").unwrap()).unwrap();
    assert_eq!(user.lattice(), "of-ours");

    fs::write(user.dir().join(FILE_NAME), r#"{"lattice_prefix":"of-the-directory"}"#).unwrap();
    assert_eq!(user.lattice(), "of-the-directory");
    assert_eq!(
        user.config("shop").lattice,
        "of-ours",
        "a named one skips the file of the directory"
    );
    assert_eq!(
        user.load(Some("shop"), &[("WASMCLOUD_LATTICE", "of-env")]).config.lattice,
        "of-env"
    );
}

#[test]
fn the_default_of_an_old_wash_is_found_in_its_index() {
    let user = User::new()
        .wash("dev", &WASH_NEW.replace("\"default\"", "\"old\""))
        .file(".wash/contexts/index.json", r#"{"name":"dev"}"#);
    assert_eq!(user.lattice(), "old");
    assert_eq!(user.places().all().len(), 1, "the index is no context");
}

#[test]
fn a_context_in_use_that_is_gone_is_an_error() {
    let user = User::new().host("shop", "{}").file(".config/lattice-host/contexts/default", "gone");
    let error = user.chosen(None).unwrap_err();
    assert!(
        error.is::<Usage>()
            && error.to_string().contains("gone")
            && error.to_string().contains("shop"),
        "{error}"
    );
}

#[test]
fn the_one_in_use_may_be_of_another_kind_and_is_forgotten_with_it() {
    let user =
        User::new().wash("dev", &WASH_NEW.replace("\"default\"", "\"of-wash\"")).host("shop", "{}");
    let places = user.places();
    let (dev, shop) = (places.find("dev").unwrap(), places.find("shop").unwrap());
    places.make_default(&dev).unwrap();
    assert_eq!(places.in_use().unwrap(), Some(dev.clone()));
    assert!(!places.remove(&shop).unwrap());
    assert_eq!(places.in_use().unwrap(), Some(dev.clone()));
    assert!(places.remove(&dev).unwrap());
    assert_eq!(places.in_use().unwrap(), None);
}

#[test]
fn flags_replace_what_they_stand_for() {
    let context = User::new().host(
        "old",
        r#"{"ctl_host":"old","rpc_host":"old","ctl_port":5222,"nats_user":"me","nats_password":"x","js_domain":"core","cluster_seed":""}"#,
    );
    let members = context.chosen(Some("old")).unwrap().unwrap().members;
    let flags = [
        ("nats_host", "new".to_owned()),
        ("nats_creds", "a.creds".to_owned()),
        ("js_domain", String::new()),
        ("log_file", "host.log".to_owned()),
        ("audit_log", "audit.jsonl".to_owned()),
    ];
    let merged = write::merged(members, &flags, Path::new("/dir"));
    let content = write::host_content(&merged).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&content).unwrap();
    let expected = serde_json::json!({
        "nats_host": "new", "nats_creds": "/dir/a.creds", "ctl_port": 5222, "cluster_seed": "",
        "log_file": "/dir/host.log", "audit_log": "/dir/audit.jsonl",
    });
    assert_eq!(object, expected);
    let context = User::new()
        .host("files", r#"{"nats_user":"me","nats_password_file":"/old","rpc_token_file":"/t"}"#);
    let members = context.chosen(Some("files")).unwrap().unwrap().members;
    let flags = [("nats_token_file", "/new".to_owned())];
    let merged = write::merged(members, &flags, Path::new("/dir"));
    assert_eq!(merged.len(), 1, "a login in files stands for a login");
    let flags = [("audit_log", "stderr".to_owned())];
    assert_eq!(write::merged(Vec::new(), &flags, Path::new("/dir"))[0].value, "stderr");
}

#[test]
fn a_new_file_is_the_owners_and_replaces_no_other() {
    let user = User::new();
    let path = user.home().join("a/b.json");
    write::create(&path, b"{}").unwrap();
    let again = write::create(&path, b"{\"x\":1}").unwrap_err();
    assert!(again.is::<Usage>() && again.to_string().contains("host ctx edit b"), "{again}");
    assert_eq!(fs::read(&path).unwrap(), b"{}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn what_we_write_for_wash_has_every_member_wash_asks_for() {
    let user = User::new()
        .host("shop", r#"{"nats_host":"tls://hub","lattice_prefix":"prod","js_domain":"core"}"#);
    let content =
        write::wash_content("shop", &user.config("shop"), Some(Duration::from_secs(3))).unwrap();
    let content: serde_json::Value = serde_json::from_slice(&content).unwrap();
    let new: serde_json::Value = serde_json::from_str(WASH_NEW).unwrap();
    let keys =
        |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&content), keys(&new));
    assert_eq!((&content["ctl_host"], &content["cluster_seed"]), (&"tls://hub".into(), &"".into()));
    assert_eq!(content["ctl_timeout"], 3000);

    let user =
        user.host("user", r#"{"nats_host":"a,b","nats_user":"me","nats_password":"hunter2"}"#);
    let refused = write::wash_content("user", &user.config("user"), None).unwrap_err().to_string();
    assert!(
        refused.contains("ctl_user") && refused.contains("several servers in rpc_host"),
        "{refused}"
    );
    assert!(!refused.contains("hunter2"));
}
