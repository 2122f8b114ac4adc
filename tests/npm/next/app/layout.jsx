import { SmartserveProvider } from "smartserve-image/react";

const WATCH = `
window.shift = 0;
window.largest = null;
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.shift += one.value;
}).observe({ type: "layout-shift", buffered: true });
new PerformanceObserver((list) => {
  const one = list.getEntries().at(-1);
  window.largest = { url: one.url, time: one.startTime };
}).observe({ type: "largest-contentful-paint", buffered: true });
`;

// A server component: everything on these pages is rendered on the server, and hydrated.
export default function Layout({ children }) {
  return (
    <html lang="en">
      <head>
        <script dangerouslySetInnerHTML={{ __html: WATCH }} />
        <link rel="icon" href="data:," />
      </head>
      <body style={{ margin: 0 }}>
        <SmartserveProvider base="http://img.test">
          {children}
          <p>below</p>
        </SmartserveProvider>
      </body>
    </html>
  );
}
