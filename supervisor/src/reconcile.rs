//! What a supervisor decides and carries out: commands, the plan, the loop around them.

mod apply;
mod begin;
mod changes;
pub(crate) mod config;
mod configure;
pub(crate) mod departure;
pub(crate) mod events;
mod job;
pub(crate) mod kernel;
mod leave;
mod member;
mod notice;
pub(crate) mod plan;
mod queue;
mod reconciler;
mod remove;
mod restart;
pub(crate) mod run;
#[cfg(test)]
mod simulation;
mod start;
mod steps;
mod stop;
mod streams;
mod surroundings;
mod tell;
mod untold;
mod upgrade;
mod view;
