// SPDX-License-Identifier: GPL-2.0
//~ E0080: a filter that does I/O when it was detached says so
pub fn detached(cx: &DetachedContext<'_, Other>, own: NewBio<'_>) -> Result {
    cx.submit_and_wait(own) //~ bad
    Ok(()) //~ good
}
