//! The built programs, end to end. One binary: each that is linked by itself costs a build as much as all of them.

mod back;
mod capped;
mod cases;
mod channels;
mod clock;
mod cut_off;
mod dead_log;
mod dialable;
mod families;
mod first_light;
mod flood;
mod full_disk;
mod hostile;
mod house;
mod live;
mod past;
mod proxies;
mod recordings;
mod restart;
mod screens;
mod seeding;
mod set_ups;
mod siege;
mod slate;
mod trackerless;
mod wire;
