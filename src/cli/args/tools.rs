//! Commands about artifacts, keys and contexts: they need no lattice.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connect::Connect;
use crate::{args::flags::SettingArgs, terminal::Form};

/// How a registry is spoken to; without a login that of the settings or of docker is taken.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Registry")]
pub struct Login {
    /// User name
    #[arg(short = 'u', long, env = "WASH_REG_USER", hide_env_values = true, value_name = "NAME")]
    pub user: Option<String>,
    /// Password; other users of the machine can see flags, the variable is safer
    #[arg(
        short = 'p',
        long,
        env = "WASH_REG_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub password: Option<String>,
    /// Speak plain HTTP
    #[arg(long)]
    pub insecure: bool,
}

/// Options of `host dashboard`.
#[derive(Args, Debug)]
pub struct Dashboard {
    /// The host: its id, the beginning of its id, or its name
    pub host: Option<String>,
    /// Only print the link
    #[arg(long)]
    pub no_open: bool,
    /// End every login to the dashboards of this user's hosts, and make another secret
    #[arg(long, conflicts_with = "host")]
    pub revoke: bool,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host inspect builtin://httpserver        the built-in HTTP server and every link value it takes\n  \
    host inspect ./echo.wasm                 who an actor is and what it may use\n  \
    host inspect ./page.wasm --wit           the world of a component, as WIT text\n  \
    host inspect registry.example/kv:0.1.0   the same of an image, fetched like a host would")]
pub struct Inspect {
    /// builtin://NAME, a path, file:///path, or an image reference
    pub reference: String,
    /// Print the token alone
    #[arg(long)]
    pub jwt_only: bool,
    /// Print the imports and exports of a component as WIT text, whether it is signed or not
    #[arg(long, conflicts_with = "jwt_only")]
    pub wit: bool,
    /// Digest (sha256:...) the image must have
    #[arg(short = 'd', long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// Fetch the image even if it is in the cache
    #[arg(long)]
    pub no_cache: bool,
    #[command(flatten)]
    pub login: Login,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Debug, Subcommand)]
pub enum Claims {
    /// Tell what an actor's claims say
    Inspect(Inspect),
    /// Sign a module or a component
    #[command(after_help = "Examples:\n  \
        host claims sign echo.wasm --name Echo --cap wasmcloud:httpserver\n  \
        host claims sign echo.wasm -d echo_signed.wasm -q --ver 0.2.0 --rev 2\n\n\
        A component is signed for the contracts of its imports and exports as well.\n\n\
        Keys are taken from ~/.wash/keys, where `wash` has them too, and are made there if there are none.")]
    Sign(Box<Sign>),
    /// Make a token without a module
    #[command(subcommand)]
    Token(Token),
    /// Make the lattice forget an actor or a provider that is gone for good
    #[command(after_help = "Examples:\n  \
        host claims forget MBA7VIBP...           its claims, with its call alias and image references\n  \
        host claims forget ponger                of several of that name the one that runs nowhere\n\n\
        What hosts of this machine remember of the account that signed it is forgotten as well: another account may sign it then.")]
    Forget(Forget),
}

#[derive(Args, Debug)]
pub struct Forget {
    /// Actor or provider by id, the beginning of it, name or call alias
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Also if it runs; its host writes the claims again then
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct Sign {
    /// Module or component to sign; a token that it already carries is replaced
    #[arg(value_name = "FILE")]
    pub source: PathBuf,
    /// Where the signed module goes; beside the source with _s in its name if not given
    #[arg(short = 'd', long, value_name = "FILE")]
    pub destination: Option<PathBuf>,
    #[command(flatten)]
    pub claims: ActorClaims,
    /// Contract that a component is not signed for, though it imports or exports an interface of
    /// it; may be repeated
    #[arg(long = "no-cap", value_name = "CONTRACT")]
    pub no_caps: Vec<String>,
    #[command(flatten)]
    pub form: Form,
}

/// The claims of an actor's token.
#[derive(Args, Clone, Debug, Default)]
pub struct ActorClaims {
    /// Name for people; that of the file if not given
    #[arg(short = 'n', long)]
    pub name: Option<String>,
    /// Contract it may use; may be repeated
    #[arg(short = 'c', long = "cap", value_name = "CONTRACT")]
    pub caps: Vec<String>,
    /// May use wasmcloud:keyvalue
    #[arg(short = 'k', long)]
    pub keyvalue: bool,
    /// May use wasmcloud:messaging
    #[arg(short = 'g', long = "msg")]
    pub messaging: bool,
    /// May use wasmcloud:httpserver
    #[arg(short = 'q', long = "http_server", alias = "http-server")]
    pub http_server: bool,
    /// May use wasmcloud:httpclient
    #[arg(long = "http_client", alias = "http-client")]
    pub http_client: bool,
    /// May use wasmcloud:blobstore
    #[arg(short = 'f', long = "blob_store", alias = "blob-store")]
    pub blob_store: bool,
    /// May use wasmcloud:builtin:numbergen
    #[arg(short = 'z', long = "extras")]
    pub numbergen: bool,
    /// May use wasmcloud:builtin:logging
    #[arg(short = 'l', long)]
    pub logging: bool,
    /// May use wasmcloud:eventstreams
    #[arg(short = 'e', long = "events")]
    pub event_streams: bool,
    /// Tag; may be repeated
    #[arg(short = 't', long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Revision; a live update takes only a higher one [default: the time, in seconds since 1970]
    #[arg(short = 'r', long = "rev", value_name = "N")]
    pub revision: Option<i32>,
    /// Version for people
    #[arg(short = 'v', long = "ver", value_name = "VERSION")]
    pub version: Option<String>,
    /// Name other actors may call it by: lower-case letters, digits, _ and /
    #[arg(short = 'a', long, value_name = "ALIAS")]
    pub call_alias: Option<String>,
    #[command(flatten)]
    pub signing: Signing,
    /// Seed of the actor's key (SM...), or a file with it
    #[arg(
        short = 's',
        long,
        env = "WASH_SUBJECT_KEY",
        hide_env_values = true,
        value_name = "SEED"
    )]
    pub subject: Option<String>,
}

/// The key that signs, and the time the token is valid.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Signing")]
pub struct Signing {
    /// Seed of the key that signs, or a file with it
    #[arg(short = 'i', long, env = "WASH_ISSUER_KEY", hide_env_values = true, value_name = "SEED")]
    pub issuer: Option<String>,
    /// Directory with keys [default: ~/.wash/keys]
    #[arg(long, env = "WASH_KEYS", hide_env_values = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Time of issue in seconds since 1970, instead of now; the same arguments then make the same
    /// token
    #[arg(long, env = "SOURCE_DATE_EPOCH", hide_env_values = true, value_name = "SECONDS")]
    pub issued_at: Option<u64>,
    /// Days until it expires; never if not given
    #[arg(
        short = 'x',
        long = "expires",
        value_name = "DAYS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub expires_in_days: Option<u64>,
    /// Days until it counts; at once if not given
    #[arg(short = 'b', long = "nbf", value_name = "DAYS")]
    pub not_before_days: Option<u64>,
    /// Fail rather than make a key
    #[arg(long)]
    pub disable_keygen: bool,
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Token of an actor
    Actor(Box<ActorToken>),
    /// Token of a provider
    Provider(Box<ProviderToken>),
    /// Token of an account, signed by an operator
    Account(AccountToken),
    /// Token of an operator, signed by itself
    Operator(OperatorToken),
}

#[derive(Args, Debug)]
pub struct ActorToken {
    #[command(flatten)]
    pub claims: ActorClaims,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct ProviderToken {
    /// Name for people
    #[arg(short = 'n', long)]
    pub name: String,
    /// Contract it fulfils
    #[arg(short = 'c', long = "capid", value_name = "CONTRACT")]
    pub contract: String,
    /// Vendor that made it
    #[arg(short = 'v', long)]
    pub vendor: String,
    /// Revision [default: the time, in seconds since 1970]
    #[arg(short = 'r', long, value_name = "N")]
    pub revision: Option<i32>,
    /// Version for people
    #[arg(short = 'e', long = "version", value_name = "VERSION")]
    pub version: Option<String>,
    /// Seed of the provider's key (SV...), or a file with it
    #[arg(
        short = 's',
        long,
        env = "WASH_SUBJECT_KEY",
        hide_env_values = true,
        value_name = "SEED"
    )]
    pub subject: Option<String>,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct AccountToken {
    /// Name for people
    #[arg(short = 'n', long)]
    pub name: String,
    /// Seed of the account's key (SA...), or a file with it
    #[arg(
        short = 's',
        long,
        env = "WASH_SUBJECT_KEY",
        hide_env_values = true,
        value_name = "SEED"
    )]
    pub subject: Option<String>,
    /// Further key that may sign for it, as seed, file or public key; may be repeated
    #[arg(short = 'a', long = "additional-key", value_name = "KEY")]
    pub additional_keys: Vec<String>,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct OperatorToken {
    /// Name for people
    #[arg(short = 'n', long)]
    pub name: String,
    /// Further key that may sign for it, as seed, file or public key; may be repeated
    #[arg(short = 'a', long = "additional-key", value_name = "KEY")]
    pub additional_keys: Vec<String>,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key pair and print it; nothing is stored
    #[command(alias = "generate")]
    Gen(KeysGen),
    /// Print a stored key pair
    Get(KeysGet),
    /// List stored keys
    List(KeysList),
}

#[derive(Args, Debug)]
pub struct KeysGen {
    /// account, user, module (actor), service (provider), server (host), operator or cluster
    #[arg(value_name = "KIND")]
    pub kind: String,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct KeysGet {
    /// Name of the key
    pub name: String,
    /// Directory with keys [default: ~/.wash/keys]
    #[arg(short = 'd', long, env = "WASH_KEYS", hide_env_values = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct KeysList {
    /// Directory with keys [default: ~/.wash/keys]
    #[arg(short = 'd', long, env = "WASH_KEYS", hide_env_values = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Debug, Subcommand)]
pub enum Par {
    /// Make a provider archive of an executable
    #[command(after_help = "Example:\n  \
        host par create --capid wasmcloud:keyvalue --vendor acme --name \"Acme store\" --binary target/release/acme --compress")]
    Create(Box<ParCreate>),
    /// Tell what a provider archive is
    Inspect(Inspect),
    /// Add an executable for another target to an archive
    Insert(ParInsert),
}

#[derive(Args, Debug)]
pub struct ParCreate {
    /// Contract it fulfils
    #[arg(short = 'c', long = "capid", value_name = "CONTRACT")]
    pub contract: String,
    /// Vendor that made it
    #[arg(short = 'v', long)]
    pub vendor: String,
    /// Name for people
    #[arg(short = 'n', long)]
    pub name: String,
    /// Executable to pack
    #[arg(short = 'b', long, value_name = "FILE")]
    pub binary: PathBuf,
    /// Its target, like x86_64-linux [default: that of this machine]
    #[arg(short = 'a', long, value_name = "ARCH-OS")]
    pub arch: Option<String>,
    /// Revision [default: the time, in seconds since 1970]
    #[arg(short = 'r', long, value_name = "N")]
    pub revision: Option<i32>,
    /// Version for people
    #[arg(long = "version", value_name = "VERSION")]
    pub version: Option<String>,
    /// File with a JSON schema of the link values
    #[arg(
        short = 'j',
        long,
        env = "WASH_JSON_SCHEMA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub schema: Option<PathBuf>,
    /// Where the archive goes; the executable's name with .par or .par.gz if not given
    #[arg(long, value_name = "FILE")]
    pub destination: Option<PathBuf>,
    /// Compress it; a destination that ends with .gz says so too
    #[arg(long)]
    pub compress: bool,
    #[command(flatten)]
    pub keys: ParKeys,
    #[command(flatten)]
    pub form: Form,
}

/// The keys of an archive.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Signing")]
pub struct ParKeys {
    /// Seed of the account that signs (SA...), or a file with it
    #[arg(short = 'i', long, env = "WASH_ISSUER_KEY", hide_env_values = true, value_name = "SEED")]
    pub issuer: Option<String>,
    /// Seed of the provider's key (SV...), or a file with it
    #[arg(
        short = 's',
        long,
        env = "WASH_SUBJECT_KEY",
        hide_env_values = true,
        value_name = "SEED"
    )]
    pub subject: Option<String>,
    /// Directory with keys [default: ~/.wash/keys]
    #[arg(short = 'd', long, env = "WASH_KEYS", hide_env_values = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Fail rather than make a key
    #[arg(long)]
    pub disable_keygen: bool,
}

#[derive(Args, Debug)]
pub struct ParInsert {
    /// Archive to add to
    #[arg(value_name = "ARCHIVE")]
    pub archive: PathBuf,
    /// Executable to add; one for the same target is replaced
    #[arg(short = 'b', long, value_name = "FILE")]
    pub binary: PathBuf,
    /// Its target, like x86_64-linux [default: that of this machine]
    #[arg(short = 'a', long, value_name = "ARCH-OS")]
    pub arch: Option<String>,
    #[command(flatten)]
    pub keys: ParKeys,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Debug, Subcommand)]
pub enum Reg {
    /// Send an artifact to a registry
    Push(Push),
    /// Fetch an artifact from a registry
    Pull(Pull),
    /// Tell whether a registry has an artifact
    Ping(RegPing),
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    host push localhost:5000/echo:0.1.0 echo_s.wasm --insecure")]
pub struct Push {
    /// Name it gets, like registry.example/echo:0.1.0
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Signed module or provider archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Registry, if the name has none
    #[arg(short = 'r', long, env = "WASH_REG_URL", hide_env = true, value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// File with the image's configuration; an empty one if not given
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub configuration: Option<PathBuf>,
    /// Annotation of the manifest, KEY=VALUE; may be repeated
    #[arg(short = 'a', long = "annotation", alias = "annotations", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    #[command(flatten)]
    pub login: Login,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Args, Debug)]
pub struct Pull {
    /// Image, like registry.example/echo:0.1.0
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes, a file or a directory; a name made of the image's in this directory if not
    /// given
    #[arg(long, value_name = "FILE")]
    pub destination: Option<PathBuf>,
    /// Registry, if the name has none
    #[arg(short = 'r', long, env = "WASH_REG_URL", hide_env = true, value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// Digest (sha256:...) it must have
    #[arg(short = 'd', long, value_name = "DIGEST")]
    pub digest: Option<String>,
    #[command(flatten)]
    pub login: Login,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Args, Debug)]
pub struct RegPing {
    /// Image, like registry.example/echo:0.1.0
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Registry, if the name has none
    #[arg(short = 'r', long, env = "WASH_REG_URL", hide_env = true, value_name = "REGISTRY")]
    pub registry: Option<String>,
    #[command(flatten)]
    pub login: Login,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Caches that can be thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheWhat {
    /// Everything below
    All,
    /// Images of registries
    Oci,
    /// Executables of providers
    Lib,
    /// Compiled code of actors
    Compiled,
    /// Files that `wash` kept and nothing here keeps
    #[value(alias = "downloads", hide = true)]
    Smithy,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host cache                what is kept, and how much\n  \
    host cache clear          throw everything away; it is fetched and compiled again when it is needed\n  \
    host cache clear oci      images only")]
pub struct Cache {
    /// The work to do with caches
    #[arg(value_enum, default_value_t = CacheDeed::List)]
    pub deed: CacheDeed,
    /// Cache that is meant
    #[arg(value_enum, default_value_t = CacheWhat::All)]
    pub what: CacheWhat,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheDeed {
    /// Show what is in them
    List,
    /// Throw them away
    Clear,
}

#[derive(Debug, Subcommand)]
pub enum Ctx {
    /// List contexts: ours, those of `wash`, and those of `nats`
    List(CtxList),
    /// Make a context
    New(CtxNew),
    /// Edit a context in your editor
    Edit(CtxEdit),
    /// Use a context from now on, or tell which is used
    #[command(alias = "use", alias = "select")]
    Default(CtxDefault),
    /// Delete a context
    #[command(alias = "delete", alias = "rm")]
    Del(CtxDel),
    /// Show a context; secrets are masked
    Show(CtxShow),
}

/// Where contexts are.
#[derive(Args, Clone, Debug, Default)]
pub struct CtxPlace {
    /// Directory of contexts in the form of `wash`, instead of all places
    #[arg(long, env = "WASH_CONTEXTS", hide_env_values = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct CtxList {
    #[command(flatten)]
    pub place: CtxPlace,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host ctx new shop --nats-host nats.shop.example --js-domain core\n  \
    host ctx new shop --from host_config.json")]
pub struct CtxNew {
    /// Name of the context
    #[arg(required_unless_present = "interactive")]
    pub name: Option<String>,
    /// Ask for each value
    #[arg(short, long)]
    pub interactive: bool,
    /// Take over the settings of this file (a host_config.json, or a context of `wash` or `nats`)
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Use it from now on
    #[arg(long)]
    pub default: bool,
    #[command(flatten)]
    pub place: CtxPlace,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Args, Debug)]
pub struct CtxEdit {
    /// Name of the context; the one in use if not given
    pub name: Option<String>,
    /// Editor
    #[arg(short, long, env = "EDITOR", default_value = "vi")]
    pub editor: String,
    #[command(flatten)]
    pub place: CtxPlace,
}

#[derive(Args, Debug)]
pub struct CtxDefault {
    /// Name of the context; without it the one in use is told
    pub name: Option<String>,
    #[command(flatten)]
    pub place: CtxPlace,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct CtxDel {
    /// Name of the context
    pub name: String,
    #[command(flatten)]
    pub place: CtxPlace,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Args, Debug)]
pub struct CtxShow {
    /// Name of the context; the one in use if not given
    pub name: Option<String>,
    #[command(flatten)]
    pub place: CtxPlace,
    #[command(flatten)]
    pub form: Form,
}

/// The shells; `wash` writes PowerShell in its own way.
fn shell_parser() -> clap::builder::PossibleValuesParser {
    let powershell = clap::builder::PossibleValue::new("powershell").alias("power-shell");
    let others = ["bash", "zsh", "fish", "elvish"].map(clap::builder::PossibleValue::new);
    clap::builder::PossibleValuesParser::new(others.into_iter().chain([powershell]))
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    source <(host completions bash)\n  \
    host completions zsh > ~/.zfunc/_host\n  \
    host completions fish > ~/.config/fish/completions/host.fish")]
pub struct Completions {
    /// Shell
    #[arg(value_name = "SHELL", value_parser = shell_parser(), ignore_case = true)]
    pub shell: String,
    /// Write a file into this directory instead of standard output
    #[arg(short = 'd', long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host man --dir ~/.local/share/man/man1\n  \
    host man start actor | man -l -")]
pub struct Man {
    /// Command whose page is printed; of all commands with --dir
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Write a page for every command into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}
