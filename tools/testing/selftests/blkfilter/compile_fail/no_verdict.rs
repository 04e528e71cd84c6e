// SPDX-License-Identifier: GPL-2.0
//~ E0308: a bio needs a verdict
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    drop(bio) //~ bad
    bio.pass() //~ good
}
