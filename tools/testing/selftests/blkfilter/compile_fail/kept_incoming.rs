// SPDX-License-Identifier: GPL-2.0
//~ E0521: a bio that was not taken can't be kept
fn submit_bio<'cb>(bio: Incoming<'cb>, place: &Mutex<Option<Incoming<'static>>>) -> Verdict<'cb> {
    *place.lock() = Some(bio); //~ bad
    loop {} //~ bad
    bio.pass() //~ good
}
