// SPDX-License-Identifier: GPL-2.0
//~ E0599: nobody waits in submit_bio
fn submit_bio<'cb>(bio: Incoming<'cb>, own: NewBio<'_>) -> Verdict<'cb> {
    bio.submit_and_wait(own); //~ bad
    bio.pass()
}
