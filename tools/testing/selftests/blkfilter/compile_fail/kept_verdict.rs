// SPDX-License-Identifier: GPL-2.0
//~ E0521: a verdict can't be kept for later
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    needs_static(bio.pass()); //~ bad
    loop {} //~ bad
    bio.pass() //~ good
}
