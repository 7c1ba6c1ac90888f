//! bearerd: log in once; every program of the session then gets a valid access token over D-Bus.
//!
//! This page is the architecture. The contract with the outside is `dbus/org.bearerd.Broker1.xml`,
//! the README is for users.
//!
//! # Bird's-eye view
//!
//! ```text
//!  caller ──D-Bus──> bus/broker ──> SessionHandle ──mpsc──> session/actor      one task per account
//!                                        ▲                   │        ▲
//!                                        │                   ▼        │ completions
//!                                     oneshot      session/state   JoinSet ──> oidc   (the provider, HTTPS)
//!                                        │          [pure]  │            └──> store  (the Secret Service)
//!                                        └──── Answer <─────┘
//!                                                 Effect: Answer, Load, Refresh, GiveUp, Write, Note, EndSession
//! ```
//!
//! A request becomes an event of the account's state machine. The machine answers it from memory, or
//! parks it and asks for effects; the actor performs them and feeds their results back as events.
//! Timers are one number, [`Session::next_timeout`](session), on a clock that counts suspend.
//!
//! ```text
//!  Login ──> session/actor: binds login/loopback, makes oidc/authorization ──> URL to the caller
//!  browser ──> login/loopback ──code──> login/code ──exchange──> oidc ──tokens──> session/actor ──> store
//!                    ▲                                                                   │
//!                    └────────────── the last page, when saved or after 2 s <────────────┘
//! ```
//!
//! # Modules, in reading order
//!
//! - [`secret`], [`dpop`], [`tokens`], [`account`], [`clock`]: the words everything else is written in.
//! - [`session`]: what the project is about. `schedule`, `live`, `state`, `events`, `stored`, `interruptions`,
//!   `narrow`, `settle` and `view` are pure; `actor` and `effects` own them; `budget` is what sessions of one issuer share; `handle` is the only door.
//! - [`recovery`]: what a process leaves to the next: notes of refreshes under way, unsaved sessions.
//! - [`power`], [`network`]: what happens to the machine, told to the sessions; [`screen`]: whether it is locked.
//! - [`oidc`]: requests to the provider, and what its answers mean (`token::classify`, `id_token::verify`,
//!   `discovery::read` are pure).
//! - [`store`]: the Secret Service and memory, behind one trait.
//! - [`login`]: attempts, the loopback listener, the code flow.
//! - [`access`]: who asks, who may, and what came of it.
//! - [`config`], [`accounts`]: what is configured, and what a reload makes of it.
//! - [`client`]: the contract from the other side, for programs; all that is there without the feature `daemon`.
//! - [`bus`]: the D-Bus objects, on the bus and at the direct socket. [`cli`]: `bearerctl`, which uses none of the above but `bus`' proxies;
//!   its `doctor` alone reads `config` and asks providers, for a daemon that is in trouble could not.
//! - `hooks`: commands of the user that follow an account.
//! - [`process`], [`daemon`], [`systemd`], [`logging`]: the process.
//! - `sandbox`: an embedded provider and the tour, behind the feature of that name.
//!
//! # Invariants
//!
//! - **Pure core:** `session::state` and its pure neighbours have no IO, clock, randomness or async;
//!   each event is handled in each state; each request is answered exactly once.
//! - **One refresh:** at most one refresh of a session is on its way, and it belongs to the actor: no
//!   caller can cancel it, and a stop waits for it and for its save.
//! - **Stored before used:** a rotated refresh token's save is started before any caller is answered;
//!   an answer never depends on the save's success (the account is `unsaved` then, and it is retried).
//! - **Silent and interactive are apart:** nothing that `GetToken` or a timer causes opens a browser
//!   or a keyring prompt.
//! - **One reason each:** login needed, keyring locked, provider unreachable and provider refused are
//!   different states and errors; `oidc::token::classify` is the one place that sorts answers.
//! - **No other clock:** only [`clock`] reads one (`clippy.toml` enforces it).
//! - **No other bus:** nothing opens a connection but [`process`] (the session bus, and the system bus for
//!   logind) and [`cli`]; tests hand in their own.
//!
//! # Across all of it
//!
//! *Errors* have three layers: [`oidc::error`] and [`store::StoreError`] say what happened,
//! [`session::error`] what a caller can do, [`bus::Error`] how it is named on the bus.
//!
//! *Secrets* are the types of [`secret`], and the key of [`dpop`]: no `Debug`, `Display` or `Serialize`. They are exposed in
//! request bodies, D-Bus replies and the store's record only.
//!
//! *Logs*: `error` is our fault, `warn` the world's, `info` a change of a session. HTTP and D-Bus
//! libraries stay at `warn`, whatever level is asked for.

#[cfg(feature = "daemon")]
pub mod access;
pub mod account;
#[cfg(feature = "daemon")]
pub mod accounts;
#[cfg(feature = "daemon")]
pub mod bus;
#[cfg(feature = "daemon")]
pub mod cli;
pub mod client;
#[cfg(feature = "daemon")]
pub mod clock;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod dpop;
#[cfg(feature = "daemon")]
mod hooks;
#[cfg(feature = "daemon")]
pub mod logging;
#[cfg(feature = "daemon")]
pub mod login;
#[cfg(feature = "daemon")]
pub mod network;
#[cfg(feature = "daemon")]
pub mod oidc;
#[cfg(feature = "daemon")]
pub mod power;
#[cfg(feature = "daemon")]
pub mod process;
#[cfg(feature = "daemon")]
pub mod recovery;
#[cfg(feature = "sandbox")]
pub mod sandbox;
#[cfg(feature = "daemon")]
pub mod screen;
#[cfg(feature = "daemon")]
pub mod secret;
#[cfg(feature = "daemon")]
pub mod session;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod systemd;
#[cfg(feature = "daemon")]
pub mod tokens;
