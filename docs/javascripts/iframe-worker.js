/* Pages that are opened from a folder (file://) may not start a Worker, which the search runs in. A hidden frame takes its
   place: it loads the same script, and messages go to and fro. Served pages keep their Worker. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      this.inner = frame.contentWindow
      this.send = this.inner.postMessage.bind(this.inner)
      const answer = "postMessage = data => parent.postMessage(data, '*')"
      frame.contentDocument.open()
      frame.contentDocument.write(`<script>${answer}<\/script><script src="${url}"><\/script>`)
      frame.contentDocument.close()
      this.ready = new Promise(done => { this.inner.addEventListener("load", done, { once: true }) })
      window.addEventListener("message", event => {
        if (event.source !== this.inner) return
        const message = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.send(data, "*"))
    }
  }
}
